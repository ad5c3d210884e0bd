//! service
pub struct Service {
    a: f64,
    b: f64,
    kind: &'static str,
    rng: fastrand::Rng,
}
impl Service {
    pub fn new(a: f64, b: f64, kind: &'static str, seed: u64) -> Self {
        Self {
            a,
            b,
            kind,
            rng: fastrand::Rng::with_seed(seed),
        }
    }
    fn gauss(&mut self, mu: f64, sigma: f64) -> f64 {
        let u = 1.0 - self.rng.f64();
        let v = self.rng.f64();
        mu + sigma * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
    fn mult(&mut self, t: f64) -> f64 {
        match self.kind {
            "none" => 1.0,
            "mild" => self.gauss(-0.005, 0.1).exp(),
            "noisy" => {
                let m = self.gauss(-0.03, 0.25).exp();
                if self.rng.f64() < 0.02 { m * 3.0 } else { m }
            }
            _ => {
                let m = self.gauss(-0.005, 0.1).exp();
                if (t / 5.0) as u64 % 2 == 1 { m * 2.0 } else { m }
            }
        }
    }
    pub fn time(&mut self, n: usize, t: f64) -> f64 {
        (self.a + self.b * n as f64) * self.mult(t)
    }
}
