use crate::{
    app::{App, DEFAULT_SERVER},
    error::Failure,
    local::{ServeOptions, Serving},
    parse,
};
use std::{net::SocketAddr, path::PathBuf};

/// Serve the store of a folder until interrupted.
///
/// gRPC and the same as JSON over HTTP on one port of this machine. Other machines are not served: this version knows
/// neither TLS nor who is calling.
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
    };
    let local = app.context.local.clone();
    let ui = &mut app.ui;
    let mut ready = |serving: &Serving| {
        ui.note(&format!(
            "serving {} on http://{}",
            serving.stores.join(", "),
            serving.address
        ));
    };
    local.serve(options, &mut ready).await
}
