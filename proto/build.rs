//! Compiles the container protocol with protox, a protobuf compiler in Rust: nobody needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const PROTOCOL: &str = "skysail/container/v1/container.proto";
    println!("cargo:rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["."])?;
    tonic_prost_build::configure()
        // Columns arrive as views of the receive buffer instead of being copied out of it.
        .bytes(".skysail.container.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
