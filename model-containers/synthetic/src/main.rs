//! The synthetic model's container.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use synthetic::Synthetic;
use synthetic::settings::Settings;

fn main() -> ExitCode {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let model = Synthetic::new(settings);
    let seen = model.seen();
    let code = skysail_container_rpc::serve(model);
    println!("inputs seen: {}", seen.load(Ordering::Relaxed));
    code
}
