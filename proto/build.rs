//! Compiles the container protocol and the peer channel with protox, a protobuf compiler in Rust: nobody needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const PROTOCOLS: [&str; 2] = [
        "skysail/container/v1/container.proto",
        "skysail/peer/v1/peer.proto",
    ];
    for protocol in PROTOCOLS {
        println!("cargo:rerun-if-changed={protocol}");
    }
    let descriptors = protox::compile(PROTOCOLS, ["."])?;
    tonic_prost_build::configure()
        // Columns arrive as views of the receive buffer instead of being copied out of it.
        .bytes(".skysail.container.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
