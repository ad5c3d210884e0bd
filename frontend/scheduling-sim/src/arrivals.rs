//! arrivals
pub fn exp(rng: &mut fastrand::Rng, rate: f64) -> f64 {
    -(1.0 - rng.f64()).ln() / rate
}
pub fn poisson(rate: f64, n: usize, rng: &mut fastrand::Rng) -> Vec<f64> {
    let mut t = 0.0;
    (0..n)
        .map(|_| {
            t += exp(rng, rate);
            t
        })
        .collect()
}
pub fn bursty(rate: f64, n: usize, rng: &mut fastrand::Rng) -> Vec<f64> {
    let lo = rate / (0.85 + 0.15 * 4.0);
    let hi = 4.0 * lo;
    let mut t = 0.0;
    let mut o = vec![];
    let mut st = false;
    let mut end = exp(rng, 1.0 / 5.67);
    while o.len() < n {
        let x = t + exp(rng, if st { hi } else { lo });
        if x > end {
            t = end;
            st = !st;
            end = t + exp(rng, 1.0 / if st { 1.0 } else { 5.67 });
            continue;
        }
        t = x;
        o.push(t);
    }
    o
}
pub fn trace(path: &str, rate: f64, n: usize) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut ts: Vec<f64> = text
        .lines()
        .skip(1)
        .map(|l| {
            let f = l.split(',').next().unwrap();
            let d: jiff::Timestamp = format!("{}Z", &f[..26]).parse().unwrap();
            d.as_nanosecond() as f64 * 1e-9
        })
        .collect();
    ts.sort_by(f64::total_cmp);
    ts.truncate(n);
    let k = (ts.len() as f64 / (ts[ts.len() - 1] - ts[0])) / rate;
    let t0 = ts[0];
    ts.iter().map(|x| (x - t0) * k).collect()
}
