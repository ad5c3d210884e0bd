//! event loop
use crate::service::Service;
use skysail_core::{
    arrivals::Arrivals,
    batch::{BatchPolicy, Situation},
    queue::{Bounds, DeadlineQueue, Deadlines},
    time::Instant,
};
use std::time::Duration;
pub struct Outcome {
    pub goodput: f64,
    pub mean_batch: f64,
}
fn at(t: f64) -> Instant {
    Instant::from_nanos((t * 1e9) as u64)
}
pub fn run(
    times: &[f64],
    slos: &[f64],
    mut svc: Service,
    replicas: usize,
    make: &dyn Fn() -> Box<dyn BatchPolicy>,
) -> Outcome {
    struct Rep {
        policy: Box<dyn BatchPolicy>,
        busy: Option<(f64, f64, Vec<f64>)>,
        free: Instant,
        latency: skysail_core::batch::LatencyModel,
        pressed: bool,
    }
    let mut reps: Vec<Rep> = (0..replicas)
        .map(|_| Rep {
            policy: make(),
            busy: None,
            free: Instant::default(),
            latency: Default::default(),
            pressed: false,
        })
        .collect();
    let mut q = DeadlineQueue::new(Bounds {
        count: usize::MAX,
        bytes: usize::MAX,
    });
    let mut arr = Arrivals::default();
    let (mut i, mut good, mut nb, mut ns) = (0, 0usize, 0usize, 0usize);
    loop {
        let ta = times.get(i).copied().unwrap_or(f64::INFINITY);
        let (te, who) = reps
            .iter()
            .enumerate()
            .filter_map(|(k, r)| r.busy.as_ref().map(|b| (b.0, k)))
            .fold((f64::INFINITY, 0), |x, y| if y.0 < x.0 { y } else { x });
        if ta.is_infinite() && te.is_infinite() {
            break;
        }
        let now;
        if te <= ta {
            now = te;
            let (_, dur, batch) = reps[who].busy.take().unwrap();
            good += batch.iter().filter(|d| now <= **d).count();
            let d = Duration::from_secs_f64(dur);
            let r = &mut reps[who];
            r.policy.observe(batch.len(), d);
            r.latency.observe(batch.len(), d, r.pressed);
        } else {
            now = ta;
            arr.record(at(now), Duration::from_secs_f64(slos[i]));
            let d = now + slos[i];
            let kappa: f64 = std::env::var("KAPPA").map_or(0.0, |k| k.parse().unwrap());
            let mut ok = true;
            if kappa > 0.0 && q.len() > 8 {
                let mb = arr.mean_budget().unwrap();
                let mu: f64 = reps
                    .iter()
                    .map(|r| r.latency.throughput(64, mb).unwrap_or(f64::INFINITY))
                    .sum();
                let (first, last) = (q.earliest().unwrap(), q.latest().unwrap());
                let share = if at(d) >= last {
                    1.0
                } else {
                    (at(d).seconds_after(first) / last.seconds_after(first)).clamp(0.0, 1.0)
                };
                if share * q.len() as f64 > kappa * mu * slos[i] {
                    ok = false;
                }
            }
            if ok {
                let _ = q.push(at(d), 1, d);
            }
            i += 1;
        }
        for k in 0..reps.len() {
            if reps[k].busy.is_some() {
                continue;
            }
            let others: Vec<skysail_core::batch::Other> = reps
                .iter()
                .enumerate()
                .filter(|(o, _)| *o != k)
                .map(|(_, r)| skysail_core::batch::Other {
                    free: if r.busy.is_some() {
                        r.free.max(at(now))
                    } else {
                        at(now)
                    },
                    alone: r.latency.predict(1).unwrap_or_default(),
                })
                .collect();
            let r = &mut reps[k];
            while !q.is_empty() && r.busy.is_none() {
                let sit = Situation {
                    start: at(now),
                    arrivals: &arr,
                    latency: &r.latency,
                    others: &others,
                };
                let dec = r.policy.decide(&q, &sit);
                r.pressed = dec.take < q.len();
                for _ in 0..dec.give_up {
                    q.pop();
                }
                let left: Vec<_> = (0..dec.leave).map_while(|_| q.pop()).collect();
                let batch: Vec<f64> = (0..dec.take).map_while(|_| q.pop().map(|x| x.1)).collect();
                for (place, d) in left {
                    q.put_back(place, 1, d);
                }
                if batch.is_empty() {
                    if dec.give_up == 0 {
                        break;
                    }
                    continue;
                }
                let dur = svc.time(batch.len(), now);
                nb += 1;
                ns += batch.len();
                r.free = at(now) + r.latency.predict(batch.len()).unwrap_or_default();
                r.busy = Some((now + dur, dur, batch));
            }
        }
    }
    Outcome {
        goodput: good as f64 / times.len() as f64,
        mean_batch: ns as f64 / nb.max(1) as f64,
    }
}
