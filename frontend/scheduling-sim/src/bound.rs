//! bound
pub fn bound(times: &[f64], slos: &[f64], a: f64, b: f64, r: usize) -> f64 {
    let s = slos.iter().copied().fold(0.0, f64::max);
    let mu = r as f64
        * (1..=64)
            .map(|n| n as f64)
            .filter(|n| a + b * n <= s)
            .map(|n| n / (a + b * n))
            .fold(0.0, f64::max);
    let cap = mu * s;
    let mut q = 0.0f64;
    let mut t = 0.0;
    let mut good = 0.0;
    for &x in times {
        q = (q - mu * (x - t)).max(0.0);
        t = x;
        let f = (cap - q).clamp(0.0, 1.0);
        q += f;
        good += f;
    }
    good / times.len() as f64
}
