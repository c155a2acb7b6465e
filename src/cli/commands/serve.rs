use crate::{
    app::{App, DEFAULT_SERVER},
    error::Failure,
    local::{ServeOptions, Serving},
    parse,
    protection::ProtectionArgs,
};
use std::{net::SocketAddr, path::PathBuf};

/// Serve the store of a folder until interrupted.
///
/// gRPC and the same as JSON over HTTP on one port. An address that other machines can reach needs TLS (--tls-cert) and a
/// way to know who calls (--client-ca or --require-token), or --insecure said in so many words.
///
/// Example: confold serve ./data --listen 127.0.0.1:7411
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder that `confold init` made; --data or CONFOLD_DATA where not given
    folder: Option<PathBuf>,
    /// Address and port
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_SERVER)]
    listen: SocketAddr,
    /// Memory for what is read again
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    cache: Option<u64>,
    #[command(flatten)]
    protection: ProtectionArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let Some(folder) = args.folder.or_else(|| app.data()) else {
        let failure = Failure::invalid("no folder to serve");
        return Err(failure.hint("make one with `confold init DIR`, then `confold serve DIR`"));
    };
    let options = ServeOptions {
        data: app.context.folder.join(folder),
        listen: args.listen,
        cache_bytes: args.cache,
        protection: args.protection.protection(app),
    };
    let scheme = if options.protection.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let local = app.context.local.clone();
    let ui = &mut app.ui;
    let mut ready = |serving: &Serving| {
        ui.note(&format!(
            "serving {} on {scheme}://{}",
            serving.stores.join(", "),
            serving.address
        ));
    };
    local.serve(options, &mut ready).await
}
