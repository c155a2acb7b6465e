use super::policy::{fetch, send, whole};
use crate::{
    app::{App, WhoArgs},
    error::Failure,
    local::Access,
    output::table,
    parse,
};
use confold_model::{code::Code, policy::EVERYBODY};
use confold_wire::{access_token::AccessToken, pb};
use std::time::Duration;

/// Bearer tokens: who shows one is its principal
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make a token for a principal.
///
/// It is printed on stdout, this once. The store keeps nothing by which it could be made again.
///
/// Example: confold token create ann --expires 90d > ann.token
#[derive(clap::Args, Debug)]
pub struct CreateArgs {
    /// Whose name stands on what is done with it
    principal: String,
    /// Good for so long: 12h, 90d, 52w; by the clock of the server that it is shown to [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    who: WhoArgs,
}

/// List the tokens, without their secrets, which nobody has.
///
/// Example: confold token list
#[derive(clap::Args, Debug)]
pub struct ListArgs {}

/// Make a token worthless: the next call that shows it is refused.
///
/// Example: confold token revoke 3f9c12ab34cd5e6f
#[derive(clap::Args, Debug)]
pub struct RevokeArgs {
    /// As `confold token list` shows it
    id: String,
    #[command(flatten)]
    who: WhoArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, app).await,
        Command::List(_) => list(app).await,
        Command::Revoke(args) => revoke(args, app).await,
    }
}

async fn create(args: CreateArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let token = fresh(app)?;
    let expires_ms = args.expires.map_or(0, |life| {
        let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        (app.context.now)().saturating_add(life)
    });
    let row = pb::PolicyToken {
        id: hex::encode(token.id()),
        hash: hex::encode(token.hash()),
        principal: args.principal.clone(),
        expires_ms,
    };
    let tokens = fetched.tokens.iter().cloned().chain([row.clone()]).collect();
    send(app, &connection, &args.who, &fetched, fetched.rules.clone(), tokens).await?;
    // Only now is it worth anything.
    if app.ui.json {
        let value = serde_json::json!({
            "token": token.reveal(), "id": row.id, "principal": row.principal, "expires_ms": expires_ms.to_string()
        });
        app.ui.json_value(&value)?;
    } else {
        app.ui.data(&token.reveal())?;
    }
    let until = match expires_ms {
        0 => "until it is revoked".to_owned(),
        ms => format!("until {}", app.ui.time(ms)),
    };
    app.ui.note(&format!(
        "token {} of {}, good {until}; it is not shown again",
        row.id, row.principal
    ));
    let speaks = |rule: &pb::PolicyRule| rule.principal == args.principal || rule.principal == EVERYBODY;
    if fetched.rules.is_empty() {
        app.ui
            .note("the store has no rules: everybody may do everything, with a token or without");
    } else if !fetched.rules.iter().any(speaks) {
        let name = &args.principal;
        app.ui.note(&format!(
            "no rule allows {name} anything yet; see `confold policy allow {name} read /`"
        ));
    }
    Ok(())
}

/// From the system's random numbers.
fn fresh(app: &App) -> Result<AccessToken, Failure> {
    let mut secret = [0; 32];
    let (low, high) = secret.split_at_mut(16);
    low.copy_from_slice(&(app.context.nonces)()?);
    high.copy_from_slice(&(app.context.nonces)()?);
    let mut id = [0; 8];
    id.copy_from_slice(&(app.context.nonces)()?[..8]);
    Ok(AccessToken::new(id, secret))
}

async fn list(app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let policy = fetch(&connection).await?;
    if app.ui.json {
        let policy = pb::GetPolicyResponse {
            rules: Vec::new(),
            ..policy
        };
        return app.ui.message("confold.v1.GetPolicyResponse", &policy);
    }
    if policy.tokens.is_empty() {
        app.ui.note("no tokens; make one with `confold token create NAME`");
        return Ok(());
    }
    let now = (app.context.now)();
    let expires = |ms: i64| match ms {
        0 => "never".to_owned(),
        ms if ms <= now => format!("{}, expired", app.ui.time(ms)),
        ms => app.ui.time(ms),
    };
    let row = |token: &pb::PolicyToken| vec![token.id.clone(), token.principal.clone(), expires(token.expires_ms)];
    let rows = policy.tokens.iter().map(row).collect();
    app.ui.data(&table(&["ID", "PRINCIPAL", "EXPIRES"], rows))
}

async fn revoke(args: RevokeArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let mut tokens = fetched.tokens.clone();
    tokens.retain(|token| token.id != args.id);
    if tokens.len() == fetched.tokens.len() {
        // What was given may be the token itself, which is to be shown to nobody.
        let failure = Failure::of(Code::NotFound, "there is no token of this id");
        return Err(failure.hint("`confold token list` shows the ids, 16 hex digits each"));
    }
    let decision = send(app, &connection, &args.who, &fetched, fetched.rules.clone(), tokens).await?;
    app.ui.decision(&decision)
}
