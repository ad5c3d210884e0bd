//! reference
use skysail_core::{
    batch::{BatchPolicy, Decision, Situation},
    queue::Deadlines,
};
use std::collections::VecDeque;
use std::time::Duration;
pub struct Natural;
impl BatchPolicy for Natural {
    fn decide(&mut self, q: &dyn Deadlines, _: &Situation<'_>) -> Decision {
        Decision {
            give_up: 0,
            leave: 0,
            take: q.len().min(64),
        }
    }
    fn observe(&mut self, _: usize, _: Duration) {}
}
struct Model {
    s: [f64; 5],
    a: f64,
    b: f64,
    rat: VecDeque<f64>,
    q: f64,
    ew: f64,
}
impl Model {
    fn l(&self, n: usize) -> f64 {
        self.a + self.b * n as f64
    }
    fn u(&self, n: usize) -> f64 {
        self.q * self.l(n)
    }
    fn add(&mut self, n: usize, d: f64) {
        let r = if self.rat.len() > 3 { d / self.l(n) } else { 1.0 };
        if self.rat.len() == 64 {
            self.rat.pop_front();
        }
        self.rat.push_back(r);
        let w = 1.0 / self.l(n).max(1e-6).powi(2);
        let nf = n as f64;
        for (s, v) in self.s.iter_mut().zip([w, w * nf, w * nf * nf, w * d, w * nf * d]) {
            *s = *s * 0.97 + v;
        }
        let s = &self.s;
        let k = 1e-3 * s[2];
        let dd = s[0] * (s[2] + k) - s[1] * s[1];
        if dd > 1e-12 * s[0] * s[2] {
            let b = ((s[0] * (s[4] + k * self.b) - s[1] * s[3]) / dd).max(1e-6);
            self.a = ((s[3] - b * s[1]) / s[0]).max(0.0);
            self.b = b;
        }
        self.ew += 0.25 * (r - self.ew);
        let mut v: Vec<f64> = self.rat.iter().copied().collect();
        v.sort_by(f64::total_cmp);
        let i = ((0.8 * v.len() as f64) as usize).min(v.len() - 1);
        self.q = v[i].max(if self.ew > 1.15 { self.ew } else { 0.0 }).max(1.0);
    }
}
pub struct Reference {
    m: Model,
    nstar: usize,
    k: usize,
    slo: f64,
}
impl Reference {
    pub fn new() -> Self {
        Self {
            m: Model {
                s: [0.0; 5],
                a: 2e-3,
                b: 1e-3,
                rat: VecDeque::new(),
                q: 1.3,
                ew: 1.0,
            },
            nstar: 1,
            k: 0,
            slo: 0.05,
        }
    }
    fn fit(&self, due: f64, n: usize) -> usize {
        let room = (due - 5e-4) / self.m.q - self.m.a;
        if room > 0.0 {
            n.min(64).min((room / self.m.b + 1e-9) as usize)
        } else {
            0
        }
    }
    fn ok(&self, ds: &[f64], n0: usize, lam: f64, r: f64) -> bool {
        let mut i = n0;
        let mut t = self.m.l(n0) / r;
        let mut it = 0;
        if lam / r > 0.8 * self.nstar as f64 / self.m.l(self.nstar) {
            return false;
        }
        while i < ds.len() && it < 8 {
            let k = self.fit(ds[i] - t, ds.len() - i);
            if k < 1 {
                return false;
            }
            i += k;
            t += self.m.l(k) / r;
            it += 1;
        }
        true
    }
}
impl BatchPolicy for Reference {
    fn decide(&mut self, q: &dyn Deadlines, s: &Situation<'_>) -> Decision {
        let lam = s.arrivals.per_second(s.start);
        let r = s.others.len() as f64 + 1.0;
        if let Some(m) = s.arrivals.mean_budget() {
            self.slo = m.as_secs_f64();
        }
        self.k += 1;
        if self.k % 8 == 1 {
            let mut best = -1.0;
            for n in 1..=64 {
                let sl = self.slo - 5e-4 - self.m.u(n);
                if sl <= 0.0 {
                    break;
                }
                let nf = n as f64;
                let v = nf.min(if sl < self.m.l(n) { lam / r * sl } else { nf }) / self.m.l(n);
                if v >= best {
                    best = v;
                    self.nstar = n;
                }
            }
        }
        let mut buf = vec![];
        q.copy_deadlines(usize::MAX, &mut buf);
        let st = s.start.as_nanos() as f64;
        let ds: Vec<f64> = buf.iter().map(|d| (d.as_nanos() as f64 - st) * 1e-9).collect();
        let mut j = 0;
        while j < ds.len() && ds[j] - 5e-4 < self.m.l(1) {
            j += 1;
        }
        if j == ds.len() {
            return Decision {
                give_up: j,
                leave: 0,
                take: 0,
            };
        }
        let mut n0 = self.fit(ds[j], ds.len() - j);
        let want = self.nstar.min(ds.len() - j);
        if n0 < want {
            if self.ok(&ds[j..], n0.max(1), lam, r) {
                return Decision {
                    give_up: j,
                    leave: 0,
                    take: n0.max(1),
                };
            }
            while ds.len() - j > 1 && ds[j] - 5e-4 < self.m.u(want.min(ds.len() - j)) {
                j += 1;
            }
            n0 = self.fit(ds[j], ds.len() - j);
        }
        Decision {
            give_up: j,
            leave: 0,
            take: n0.max(1),
        }
    }
    fn observe(&mut self, n: usize, t: Duration) {
        self.m.add(n, t.as_secs_f64());
    }
}
