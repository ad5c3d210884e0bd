mod arrivals;
mod bound;
mod reference;
mod service;
mod simulation;
use skysail_core::batch::{Aimd, BatchPolicy, FixedSize, Learned};
use std::num::NonZeroU32;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let which = args.get(1).map_or("learned", |s| s.as_str()).to_owned();
    let seed: u64 = args.get(2).map_or(1, |s| s.parse().unwrap());
    let mode = args.get(3).map_or("suite", |s| s.as_str()).to_owned();
    let max = NonZeroU32::new(64).unwrap();
    let make = |which: &str| -> Box<dyn BatchPolicy> {
        match which {
            "learned" => Box::new(Learned::new(max)),
            "aimd" => Box::new(Aimd::new(max)),
            "natural" => Box::new(reference::Natural),
            "reference" => Box::new(reference::Reference::new()),
            s => Box::new(FixedSize::new(
                NonZeroU32::new(s.trim_start_matches("fixed:").parse().unwrap()).unwrap(),
            )),
        }
    };
    let mut cells = vec![];
    let loads: Vec<f64> = if mode == "none" {
        vec![0.9, 1.2, 1.6, 3.0]
    } else {
        vec![0.3, 0.6, 0.8, 0.9, 1.0, 1.2, 1.6]
    };
    let models: &[(f64, f64, f64)] = if mode == "none" {
        &[
            (5e-3, 1e-3, 0.05),
            (1e-3, 4e-3, 0.05),
            (2e-3, 0.3e-3, 0.02),
            (10e-3, 2e-3, 0.2),
            (8e-3, 0.2e-3, 0.02),
        ]
    } else {
        &[(5e-3, 1e-3, 0.05), (1e-3, 4e-3, 0.05)]
    };
    let heavy = [(8e-3, 0.2e-3, 0.02)];
    let other = [(2e-3, 0.3e-3, 0.02), (10e-3, 2e-3, 0.2)];
    let models: &[(f64, f64, f64)] = if mode == "heavy" {
        &heavy
    } else if mode == "other" {
        &other
    } else {
        models
    };
    let noises: &[&str] = if mode == "none" {
        &["none"]
    } else {
        &["mild", "noisy", "shift"]
    };
    for &(a, b, slo) in models {
        for r in [1usize, 2] {
            for &noise in noises {
                for an in ["poisson", "bursty", "trace", "mixed"] {
                    if mode == "none" && (r == 2 || an == "mixed") {
                        continue;
                    }
                    if r == 2 && (noise != "noisy" || an == "trace") {
                        continue;
                    }
                    cells.push((a, b, slo, r, noise, an));
                }
            }
        }
    }
    let jobs: Vec<_> = cells
        .iter()
        .flat_map(|c| loads.iter().map(move |l| (*c, *l)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let out = std::sync::Mutex::new(vec![(0.0, 0.0, 0.0, 0.0); jobs.len()]);
    std::thread::scope(|sc| {
        for _ in 0..2 {
            sc.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if i >= jobs.len() {
                        return;
                    }
                    let ((a, b, slo, r, noise, an), load) = jobs[i];
                    let n = if an == "trace" { 8800 } else { 20000 };
                    let nmax = (((slo / 2.0 - a) / b) as usize).clamp(1, 64);
                    let cap = r as f64 * nmax as f64 / (a + b * nmax as f64);
                    let rate = load * cap;
                    let mut rng = fastrand::Rng::with_seed(seed * 1000 + 7);
                    let times = match an {
                        "bursty" => arrivals::bursty(rate, n, &mut rng),
                        "trace" => arrivals::trace(
                            "/work/shared/scheduling/traces/AzureLLMInferenceTrace_code.csv",
                            rate,
                            n,
                        ),
                        _ => arrivals::poisson(rate, n, &mut rng),
                    };
                    let slos: Vec<f64> = times
                        .iter()
                        .map(|_| {
                            if an == "mixed" {
                                if rng.bool() { 0.025 } else { 0.1 }
                            } else {
                                slo
                            }
                        })
                        .collect();
                    let sl: f64 = std::env::var("SLOW").map_or(1.0, |s| s.parse().unwrap());
                    let noise = if sl > 0.0 && std::env::var("SLOW").is_ok() && noise == "shift" {
                        "mild"
                    } else {
                        noise
                    };
                    let svc = service::Service::new(a * sl, b * sl, noise, seed * 77 + 5);
                    let t0 = std::time::SystemTime::now();
                    let res = simulation::run(&times, &slos, svc, r, &|| make(&which));
                    let el = t0.elapsed().unwrap().as_secs_f64();
                    let bd = bound::bound(&times, &slos, a, b, r);
                    let _ = std::fs::OpenOptions::new();
                    out.lock().unwrap()[i] = (res.goodput, bd, res.mean_batch, el);
                }
            });
        }
    });
    let out = out.into_inner().unwrap();
    let mut tg = 0.0;
    let mut tb = 0.0;
    let mut by = std::collections::BTreeMap::<String, (f64, f64)>::new();
    let mut worst: (f64, String) = (9.0, String::new());
    let mut ratios = 0.0;
    for (i, c) in cells.iter().enumerate() {
        let row = &out[i * loads.len()..(i + 1) * loads.len()];
        if std::env::var("V").is_ok() {
            println!(
                "{:?} {}",
                c,
                row.iter()
                    .map(|x| format!("{:.3}/{:.3}", x.0, x.1))
                    .collect::<Vec<_>>()
                    .join(" ")
            );
        }
        for (x, l) in row.iter().zip(&loads) {
            tg += x.0;
            tb += x.1;
            ratios += x.0 / x.1;
            for k in [
                format!("noise {}", c.4),
                format!("arr {}", c.5),
                format!("load {l}"),
                format!("R{}", c.3),
                format!("model {} {}", c.0, c.1),
            ] {
                let e = by.entry(k).or_default();
                e.0 += x.0;
                e.1 += x.1;
            }
            let w = x.0 / x.1;
            if w < worst.0 {
                worst = (w, format!("{c:?} {l}"));
            }
        }
    }
    if mode == "none" {
        for (i, c) in cells.iter().enumerate() {
            let row = &out[i * loads.len()..(i + 1) * loads.len()];
            print!(
                "[{} {} {}] {:.3}({:.3}) ",
                c.0,
                c.1,
                c.5,
                row.iter().map(|x| x.0 / x.1).sum::<f64>() / loads.len() as f64,
                row.iter().map(|x| x.0 / x.1).fold(9.0, f64::min)
            );
        }
        println!();
    }
    for (k, (g, b)) in &by {
        print!("{k}:{:.4} ", g / b);
    }
    println!(
        "\n{which} seed {seed}: sum/sum {:.4} mean ratio {:.4} worst {:.3} {} cpu {:.1}s",
        tg / tb,
        ratios / out.len() as f64,
        worst.0,
        worst.1,
        out.iter().map(|x| x.3).sum::<f64>()
    );
}
