use crate::{
    app::{App, WhoArgs},
    error::{Exit, Failure},
    local::Access,
    types::StoreTypes,
    values::read_file,
};
use confold_client::Connection;
use confold_model::{
    code::Code,
    path::Path,
    policy::{Policy, Right, Rights, Rule, Visible},
};
use confold_wire::pb;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;

/// Who may do what
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Show(ShowArgs),
    Allow(AllowArgs),
    Deny(DenyArgs),
    Test(TestArgs),
    Edit(EditArgs),
    Set(SetArgs),
}

/// Show the rules in force, and the tokens.
///
/// What is printed can be changed and given to `confold policy set`. Whoever does not administer the store sees what
/// concerns themselves.
///
/// Example: confold policy show > policy.yaml
#[derive(clap::Args, Debug)]
pub struct ShowArgs {}

/// Allow somebody something at and below a path.
///
/// The rights are read, write, tag and admin. None implies another; tag and admin are of the whole store, on the path /.
/// The first rule closes the store for everybody whom no rule allows anything, so it has to give somebody admin.
///
/// Example: confold policy allow ann read,write /devices
#[derive(clap::Args, Debug)]
pub struct AllowArgs {
    /// A name as the server knows it, from a token or a certificate; `*` is everybody with a name
    principal: String,
    /// One or several, with commas between
    #[arg(value_parser = rights)]
    rights: Rights,
    path: String,
    /// Refuse changes of READ_ONLY fields by this principal there, whether or not they ask for it
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    who: WhoArgs,
}

/// Take rights away again.
///
/// Only a rule of exactly this principal and path is changed. Where another rule still allows it, that is said.
///
/// Example: confold policy deny ann write /devices
#[derive(clap::Args, Debug)]
pub struct DenyArgs {
    principal: String,
    /// One or several, with commas between
    #[arg(value_parser = rights)]
    rights: Rights,
    path: String,
    #[command(flatten)]
    who: WhoArgs,
}

/// Tell whether somebody may do something, and by which rule.
///
/// Exit status 0 is yes, 1 is no.
///
/// Example: confold policy test ann write /devices/olt-1
#[derive(clap::Args, Debug)]
pub struct TestArgs {
    principal: String,
    #[arg(value_parser = right)]
    right: Right,
    path: String,
}

/// Change the rules in your editor.
///
/// Example: confold policy edit
#[derive(clap::Args, Debug)]
pub struct EditArgs {
    #[command(flatten)]
    who: WhoArgs,
}

/// Put the rules of a file in the place of those in force.
///
/// The file is what `confold policy show` prints. Without `tokens` in it they stay as they are; a token that it leaves out
/// is revoked.
///
/// Example: confold policy set policy.yaml
#[derive(clap::Args, Debug)]
pub struct SetArgs {
    /// YAML; `-` is stdin
    file: String,
    #[command(flatten)]
    who: WhoArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::Show(_) => show(app).await,
        Command::Allow(args) => allow(args, app).await,
        Command::Deny(args) => deny(args, app).await,
        Command::Test(args) => test(args, app).await,
        Command::Edit(args) => edit(args, app).await,
        Command::Set(args) => set(args, app).await,
    }
}

fn right(text: &str) -> Result<Right, String> {
    Right::from_name(text).ok_or_else(|| format!("{text:?} is no right: write read, write, tag or admin"))
}

fn rights(text: &str) -> Result<Rights, String> {
    text.split(',').map(|name| right(name.trim())).collect()
}

/// The policy in force, and where it stands.
pub async fn fetch(connection: &Connection) -> Result<pb::GetPolicyResponse, Failure> {
    let request = pb::GetPolicyRequest {
        store: connection.store.clone(),
    };
    let answer = connection.again(|| connection.api.get_policy(request.clone())).await?;
    if let Some(at) = &answer.read_at {
        connection.saw(at.position);
    }
    Ok(answer)
}

/// Puts another policy in the place of the one that was fetched, and of no other.
pub async fn send(
    app: &mut App,
    connection: &Connection,
    who: &WhoArgs,
    fetched: &pb::GetPolicyResponse,
    rules: Vec<pb::PolicyRule>,
    tokens: Vec<pb::PolicyToken>,
) -> Result<pb::Decision, Failure> {
    let id = connection.mint().await?;
    let request = pb::SetPolicyRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(who)
        }),
        rules,
        tokens,
        replaces: fetched.position,
    };
    let decided = connection
        .decide(id, || connection.api.set_policy(request.clone()))
        .await;
    decided.map_err(|error| {
        let failure = Failure::from(error);
        match failure.code() {
            Some(Code::Conflict) => failure.hint("somebody changed the policy meanwhile: look at it, then try again"),
            _ => failure,
        }
    })
}

/// Only of a whole policy can another one be made.
pub fn whole(fetched: &pb::GetPolicyResponse) -> Result<(), Failure> {
    match fetched.restricted {
        false => Ok(()),
        true => Err(Failure::of(
            Code::Permission,
            format!("{:?} does not administer this store", fetched.principal),
        )),
    }
}

async fn show(app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let policy = fetch(&connection).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.GetPolicyResponse", &policy);
    }
    if policy.rules.is_empty() && !policy.restricted {
        app.ui
            .note("no rules: everybody may do everything; `confold policy allow NAME admin /` begins");
    }
    if policy.restricted {
        app.ui
            .note("what concerns you; the rest is for whoever administers the store");
    }
    app.ui.data(&written(&policy)?)
}

async fn allow(args: AllowArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let mut rules = fetched.rules.clone();
    let path = canonical(&connection, &args.path).await?;
    match rules
        .iter_mut()
        .find(|rule| rule.principal == args.principal && rule.path == path)
    {
        Some(rule) => {
            rule.rights = numbers(of_numbers(&rule.rights).and(args.rights));
            rule.strict |= args.strict;
        }
        None => rules.push(pb::PolicyRule {
            principal: args.principal,
            path,
            rights: numbers(args.rights),
            strict: args.strict,
        }),
    }
    let tokens = fetched.tokens.clone();
    let decision = send(app, &connection, &args.who, &fetched, rules, tokens).await?;
    app.ui.decision(&decision)
}

async fn deny(args: DenyArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let mut rules = fetched.rules.clone();
    let path = canonical(&connection, &args.path).await?;
    let mut found = false;
    for rule in rules
        .iter_mut()
        .filter(|rule| rule.principal == args.principal && rule.path == path)
    {
        let had = of_numbers(&rule.rights);
        let left = args.rights.iter().fold(had, Rights::without);
        found |= left != had;
        rule.rights = numbers(left);
    }
    if !found {
        let text = format!("no rule gives {} {} on exactly {path}", args.principal, args.rights);
        let failure = Failure::of(Code::NotFound, text);
        return Err(
            failure.hint("`confold policy show` has the rules, and `confold policy test` says which one decides")
        );
    }
    rules.retain(|rule| !rule.rights.is_empty() || rule.strict);
    let policy = Policy {
        rules: with_paths(&connection, &rules).await?,
        tokens: Vec::new(),
    };
    let tokens = fetched.tokens.clone();
    let decision = send(app, &connection, &args.who, &fetched, rules.clone(), tokens).await?;
    app.ui.decision(&decision)?;
    let at = paths(&connection, &[path.as_str()]).await?.remove(0);
    for right in args.rights.iter() {
        let still = policy.rule_for(&args.principal, right, &at);
        if let Some(index) = still.and_then(|rule| policy.rules.iter().position(|other| other == rule)) {
            let line = line(&rules[index]);
            app.ui
                .note(&format!("{} is still allowed, by the rule: {line}", right.name()));
        }
    }
    Ok(())
}

async fn test(args: TestArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let fetched = fetch(&connection).await?;
    if args.principal != fetched.principal {
        whole(&fetched)?;
    }
    let at = paths(&connection, &[args.path.as_str()]).await?.remove(0);
    let policy = Policy {
        rules: with_paths(&connection, &fetched.rules).await?,
        tokens: Vec::new(),
    };
    let by = policy.rule_for(&args.principal, args.right, &at);
    let by = by.and_then(|rule| policy.rules.iter().position(|other| other == rule));
    let is_allowed = policy.allows(&args.principal, args.right, &at);
    let book = confold_model::policy::Rulebook::new(&policy);
    let partly = !is_allowed && args.right == Right::Read && book.of(&args.principal).visible(&at) == Visible::Partial;
    let why = match by {
        Some(index) => line(&fetched.rules[index]),
        None if is_allowed => "there are no rules".to_owned(),
        None if partly => "no rule allows it here, but something below may be read".to_owned(),
        None => "no rule allows it".to_owned(),
    };
    if app.ui.json {
        let rule = by.map(|index| line(&fetched.rules[index]));
        app.ui
            .json_value(&serde_json::json!({ "allowed": is_allowed, "rule": rule, "why": why }))?;
    } else {
        app.ui
            .data(&format!("{}: {why}", if is_allowed { "yes" } else { "no" }))?;
    }
    match is_allowed {
        true => Ok(()),
        // The answer is the output; the exit status is for scripts.
        false => Err(Failure {
            silent: true,
            ..Failure::new(Exit::Refused, "not allowed")
        }),
    }
}

async fn edit(args: EditArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let before = written(&fetched)?;
    let file = super::edit::draft(&before)?;
    super::edit::in_editor(app, &file)?;
    let after = fs::read_to_string(file.path())
        .map_err(|error| Failure::invalid(format!("cannot read the edited file: {error}")))?;
    if after == before {
        app.ui.note("nothing was changed");
        return Ok(());
    }
    let sent = async {
        let (rules, tokens) = read(&after, &fetched)?;
        send(app, &connection, &args.who, &fetched, rules, tokens).await
    };
    match sent.await {
        Ok(decision) => app.ui.decision(&decision),
        Err(failure) => match file.keep() {
            Ok((_, path)) => Err(failure.cause(format!("your text is kept in {}", path.display()))),
            Err(error) => Err(failure.cause(format!("and your text could not be kept: {error}"))),
        },
    }
}

async fn set(args: SetArgs, app: &mut App) -> Result<(), Failure> {
    let text = {
        let bytes = match args.file.as_str() {
            "-" => app.stdin()?,
            name => read_file(&app.file(name), name)?,
        };
        String::from_utf8(bytes).map_err(|_| Failure::invalid(format!("{} is not UTF-8", args.file)))?
    };
    let connection = app.connect(Access::Write).await?;
    let fetched = fetch(&connection).await?;
    whole(&fetched)?;
    let (rules, tokens) = read(&text, &fetched)?;
    let decision = send(app, &connection, &args.who, &fetched, rules, tokens).await?;
    app.ui.decision(&decision)
}

/// A policy as a file for people.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    rules: Vec<RuleDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenDocument>>,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    principal: String,
    path: String,
    #[serde(default)]
    rights: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct TokenDocument {
    id: String,
    principal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

fn written(policy: &pb::GetPolicyResponse) -> Result<String, Failure> {
    let rule = |rule: &pb::PolicyRule| RuleDocument {
        principal: rule.principal.clone(),
        path: rule.path.clone(),
        rights: of_numbers(&rule.rights)
            .iter()
            .map(|right| right.name().to_owned())
            .collect(),
        strict: rule.strict,
    };
    let token = |token: &pb::PolicyToken| TokenDocument {
        id: token.id.clone(),
        principal: token.principal.clone(),
        expires: (token.expires_ms != 0).then(|| {
            Timestamp::from_millisecond(token.expires_ms)
                .unwrap_or(Timestamp::MAX)
                .to_string()
        }),
    };
    let document = Document {
        rules: policy.rules.iter().map(rule).collect(),
        tokens: Some(policy.tokens.iter().map(token).collect()),
    };
    serde_yaml_ng::to_string(&document)
        .map_err(|error| Failure::new(Exit::Damaged, format!("the policy cannot be written as YAML: {error}")))
}

fn read(text: &str, fetched: &pb::GetPolicyResponse) -> Result<(Vec<pb::PolicyRule>, Vec<pb::PolicyToken>), Failure> {
    let document: Document = serde_yaml_ng::from_str(text).map_err(|error| {
        let failure = Failure::invalid(format!("this is no policy: {error}"));
        failure.hint("write it as `confold policy show` does")
    })?;
    let rule = |rule: RuleDocument| {
        let rights = rule
            .rights
            .iter()
            .map(|name| right(name))
            .collect::<Result<Rights, String>>();
        Ok::<_, Failure>(pb::PolicyRule {
            rights: numbers(rights.map_err(Failure::invalid)?),
            principal: rule.principal,
            path: rule.path,
            strict: rule.strict,
        })
    };
    let token = |token: TokenDocument| {
        let expires_ms = match &token.expires {
            None => 0,
            Some(text) => match text.parse() {
                Ok(time) => Timestamp::as_millisecond(time),
                Err(error) => {
                    let failure = Failure::invalid(format!("{text:?} of token {} is no time: {error}", token.id));
                    return Err(failure.hint("write it as in 2027-01-31T12:00:00Z"));
                }
            },
        };
        Ok(pb::PolicyToken {
            id: token.id,
            hash: String::new(),
            principal: token.principal,
            expires_ms,
        })
    };
    let rules = document.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    let tokens = match document.tokens {
        Some(tokens) => tokens.into_iter().map(token).collect::<Result<_, Failure>>()?,
        None => fetched.tokens.clone(),
    };
    Ok((rules, tokens))
}

fn numbers(rights: Rights) -> Vec<i32> {
    rights.iter().map(|right| right as i32).collect()
}

fn of_numbers(numbers: &[i32]) -> Rights {
    let right = |number: &i32| u64::try_from(*number).ok().and_then(Right::from_number);
    numbers.iter().filter_map(right).collect()
}

/// `ann may read, write at and below /devices`
pub fn line(rule: &pb::PolicyRule) -> String {
    let strict = if rule.strict { ", strict" } else { "" };
    format!(
        "{} may {} at and below {}{strict}",
        rule.principal,
        of_numbers(&rule.rights),
        rule.path
    )
}

/// The one text of a path.
async fn canonical(connection: &Connection, path: &str) -> Result<String, Failure> {
    if path.trim_matches('/').is_empty() {
        return Ok("/".to_owned());
    }
    let types = StoreTypes::of(connection, None).await?;
    let (path, _) = types.target(path)?;
    Ok(types.schema.print_path(&path))
}

async fn with_paths(connection: &Connection, rules: &[pb::PolicyRule]) -> Result<Vec<Rule>, Failure> {
    let texts: Vec<&str> = rules.iter().map(|rule| rule.path.as_str()).collect();
    let prefixes = paths(connection, &texts).await?;
    let rule = |(rule, prefix): (&pb::PolicyRule, Path)| Rule {
        principal: rule.principal.clone(),
        prefix,
        rights: of_numbers(&rule.rights),
        strict: rule.strict,
    };
    Ok(rules.iter().zip(prefixes).map(rule).collect())
}

/// Paths as steps: what is decided is decided on these. The root needs no schema.
async fn paths(connection: &Connection, texts: &[&str]) -> Result<Vec<Path>, Failure> {
    let is_root = |text: &str| text.trim_matches('/').is_empty();
    if texts.iter().all(|text| is_root(text)) {
        return Ok(texts.iter().map(|_| Path::root()).collect());
    }
    let types = StoreTypes::of(connection, None).await?;
    texts.iter().map(|text| Ok(types.target(text)?.0)).collect()
}
