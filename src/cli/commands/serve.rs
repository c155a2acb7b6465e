use crate::{
    app::App,
    error::Failure,
    local::{OnDispute, Quota, ServeOptions, Serving},
    parse,
    protection::ProtectionArgs,
};
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// Serve stores until interrupted.
///
/// gRPC and the same as JSON over HTTP on one port. An address that other machines can reach needs TLS (--tls-cert) and a
/// way to know who calls (--client-ca or --require-token), or --insecure said in so many words.
///
/// Each folder is one store. With --stores they lie in one folder, and `confold store` makes, opens and closes them while the
/// server runs. What befalls one store leaves the others as they are.
///
/// /metrics is on that port too, for callers with the right to administer; --metrics-listen has it on an address of its own
/// for a monitoring system that holds no token.
///
/// What is not given here is taken from the environment (CONFOLD_LISTEN, CONFOLD_METRICS_LISTEN, CONFOLD_ADMIN,
/// CONFOLD_ON_DISPUTE), then from [server] in the confold.toml of the folder that is served.
///
/// Example: confold serve ./data --listen 127.0.0.1:7411
///
/// Example: confold serve --stores /var/lib/confold --admin ops.example --tls-cert server.pem --tls-key server.key --client-ca ca.pem
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders that `confold init` made; --data or CONFOLD_DATA where none is given
    folders: Vec<PathBuf>,
    /// A folder of such folders, in which stores can be made while it serves
    #[arg(long, value_name = "FOLDER")]
    stores: Option<PathBuf>,
    /// The configuration file [default: confold.toml of the folder that is served]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Another address and port for /metrics, /livez and /readyz alone: no TLS, no token, whoever reaches it may read
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Memory for what is read again
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    cache: Option<u64>,
    /// Who may make, open and close stores, by the name in the client's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    admin: Vec<String>,
    /// What to do while replicas disagree and it is not known who is right [default: serve]
    #[arg(long, value_name = "WHAT")]
    on_dispute: Option<OnDispute>,
    /// Calls that one caller may have under way at a store at once; more are refused with QUOTA [default: 4096]
    #[arg(long, value_name = "N")]
    calls_in_flight: Option<NonZeroU32>,
    /// Calls, and commits of a stream, that one caller may make at a store in a second; more wait [default: no bound]
    #[arg(long, value_name = "N")]
    calls_per_second: Option<NonZeroU32>,
    /// Bytes of requests that one caller may send to a store in a second; more wait [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = quota_size)]
    bytes_per_second: Option<NonZeroU32>,
    /// Alarm where a topic would be refused for its settings; only where every broker is on this machine
    #[arg(long)]
    dev_unsafe: bool,
    #[command(flatten)]
    protection: ProtectionArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let folder = app.context.folder.clone();
    let mut data = args.folders;
    if data.is_empty() && args.stores.is_none() {
        data.extend(app.data());
    }
    if data.is_empty() && args.stores.is_none() {
        let failure = Failure::invalid("no folder to serve");
        return Err(failure.hint("make one with `confold init DIR`, then `confold serve DIR`"));
    }
    let named = app.variable("CONFOLD_ADMIN").unwrap_or_default();
    let admins = match args.admin.is_empty() {
        true => named
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        false => args.admin,
    };
    let options = ServeOptions {
        data: data.iter().map(|data| folder.join(data)).collect(),
        stores: args.stores.map(|stores| folder.join(stores)),
        config: args.config.map(|config| folder.join(config)),
        listen: address(args.listen, app, "CONFOLD_LISTEN")?,
        metrics_listen: address(args.metrics_listen, app, "CONFOLD_METRICS_LISTEN")?,
        cache_bytes: args.cache,
        admins,
        on_dispute: match args.on_dispute {
            Some(asked) => Some(asked),
            None => from_environment(app, "CONFOLD_ON_DISPUTE", "`serve` or `stop`", |text| {
                clap::ValueEnum::from_str(text, false).ok()
            })?,
        },
        quota: Quota {
            calls_in_flight: args.calls_in_flight,
            calls_per_second: args.calls_per_second,
            bytes_per_second: args.bytes_per_second,
        },
        dev_unsafe: args.dev_unsafe,
        protection: args.protection.protection(app),
    };
    let local = app.context.local.clone();
    let ui = &mut app.ui;
    let mut ready = |serving: &Serving| {
        let scheme = if serving.tls { "https" } else { "http" };
        let stores = match &serving.stores[..] {
            [] => "no store yet".to_owned(),
            stores => stores.join(", "),
        };
        if let Some(metrics) = serving.metrics {
            ui.note(&format!("metrics on http://{metrics}/metrics"));
        }
        ui.note(&format!("serving {stores} on {scheme}://{}", serving.address));
    };
    local.serve(options, &mut ready).await
}

/// A size of 1 byte to 4 GiB less one.
fn quota_size(text: &str) -> Result<NonZeroU32, String> {
    let size = parse::size(text)?;
    let fits = u32::try_from(size).ok().and_then(NonZeroU32::new);
    fits.ok_or_else(|| format!("{size} bytes a second are not between 1 and {}", u32::MAX))
}

fn address(given: Option<SocketAddr>, app: &App, variable: &str) -> Result<Option<SocketAddr>, Failure> {
    match given {
        Some(asked) => Ok(Some(asked)),
        None => from_environment(app, variable, "an address and a port", |text| text.parse().ok()),
    }
}

/// A variable that is set has to make sense.
fn from_environment<T>(
    app: &App,
    name: &str,
    what: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    match app.variable(name) {
        None => Ok(None),
        Some(text) => match read(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(Failure::invalid(format!("{name} is {text:?}, and has to be {what}"))),
        },
    }
}
