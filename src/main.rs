use mimalloc::MiMalloc;
use std::process::ExitCode;
use std::sync::Arc;

// A fold allocates and frees small nodes all the time: this allocator is a tenth quicker there than glibc's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // One provider of cryptography for the whole process, whoever asks for the default one; that it is there already would
    // be no harm.
    _ = rustls::crypto::ring::default_provider().install_default();
    let local = Arc::new(confold::local::OnThisMachine);
    let context = confold_cli::Context::of_process(env!("CARGO_PKG_VERSION"), local);
    confold_cli::run(std::env::args_os(), context).into()
}
