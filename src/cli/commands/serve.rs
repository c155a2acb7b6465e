use crate::{
    app::{App, DEFAULT_SERVER},
    error::Failure,
    local::{OnDispute, ServeOptions, Serving},
    parse,
};
use std::{net::SocketAddr, path::PathBuf};

/// Serve the store of a folder until interrupted.
///
/// gRPC and the same as JSON over HTTP on one port. Other machines are served only where --insecure says so.
///
/// Example: confold serve ./data --listen 127.0.0.1:7411
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder that `confold init` made; --data or CONFOLD_DATA where not given
    folder: Option<PathBuf>,
    /// Address and port
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_SERVER)]
    listen: SocketAddr,
    /// Serve other machines too, without encryption and without asking who they are
    #[arg(long)]
    insecure: bool,
    /// What to do when replicas disagree and it is not known which is right
    #[arg(long, value_name = "WHAT", default_value = "serve")]
    on_dispute: OnDispute,
    /// Memory for what is read again
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    cache: Option<u64>,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let Some(folder) = args.folder.or_else(|| app.data()) else {
        let failure = Failure::invalid("no folder to serve");
        return Err(failure.hint("make one with `confold init DIR`, then `confold serve DIR`"));
    };
    if !args.listen.ip().is_loopback() && !args.insecure {
        let text = format!(
            "{} is open to other machines, and this build encrypts nothing",
            args.listen
        );
        return Err(Failure::invalid(text).hint("listen on 127.0.0.1, or say --insecure where the network is trusted"));
    }
    let options = ServeOptions {
        data: app.context.folder.join(folder),
        listen: args.listen,
        insecure: args.insecure,
        on_dispute: args.on_dispute,
        cache_bytes: args.cache,
    };
    let local = app.context.local.clone();
    let ui = &mut app.ui;
    let mut ready = |serving: Serving| {
        ui.note(&format!(
            "serving {} on http://{}",
            serving.stores.join(", "),
            serving.address
        ));
    };
    local.serve(options, &mut ready).await
}
