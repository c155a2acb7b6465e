//! The access policy as clients know it: paths and rights as text, and of tokens everything but what they are made of.

use super::Refusal;
use super::at::Reading;
use super::propose::{Intention, propose};
use super::refusal::refusal;
use super::rights::Asked;
use crate::view::View;
use confold_model::code::{Code, Rejection};
use confold_model::event::Body;
use confold_model::ids::Position;
use confold_model::path::Path;
use confold_model::policy::{Policy, Right, Rule, TokenRow};
use confold_wire::pb;

pub(super) fn get(served: &Asked) -> Result<pb::GetPolicyResponse, Refusal> {
    let rights = served.now()?;
    let view = served.handle.view();
    let mut answer = pb::GetPolicyResponse {
        read_at: Some(Reading::latest(view.clone()).read_at(&rights)),
        principal: served.principal.to_string(),
        restricted: !rights.is_admin(),
        ..pb::GetPolicyResponse::default()
    };
    let Some(row) = &view.policy else { return Ok(answer) };
    answer.position = row.position.0;
    let all = rights.is_admin();
    let rules = row
        .policy
        .rules
        .iter()
        .filter(|rule| all || rule.is_for(&served.principal));
    answer.rules = rules.map(|rule| rule_text(&view, rule)).collect();
    let tokens = row
        .policy
        .tokens
        .iter()
        .filter(|token| all || *token.principal == *served.principal);
    answer.tokens = tokens.map(token_text).collect();
    Ok(answer)
}

fn rule_text(view: &View, rule: &Rule) -> pb::PolicyRule {
    pb::PolicyRule {
        principal: rule.principal.clone(),
        // A path other than the root could not be said before there was a schema.
        path: view
            .schema
            .as_ref()
            .map_or_else(|| "/".to_owned(), |schema| schema.print_path(&rule.prefix)),
        rights: rule.rights.iter().map(|right| right as i32).collect(),
        strict: rule.strict,
    }
}

fn token_text(token: &TokenRow) -> pb::PolicyToken {
    pb::PolicyToken {
        id: hex::encode(token.id),
        hash: String::new(),
        principal: token.principal.clone(),
        expires_ms: token.expires_ms,
    }
}

pub(super) async fn set(served: Asked, mut request: pb::SetPolicyRequest) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let built = body(&served.handle.view(), &request);
    propose(served, intention, built.map(Into::into)).await
}

fn body(view: &View, request: &pb::SetPolicyRequest) -> Result<Body<'static>, Refusal> {
    let present = view.policy.as_ref().map(|row| row.position).unwrap_or_default();
    let replaces = Position(request.replaces);
    if replaces != present {
        let detail =
            format!("the policy in force stands at position {present}, this one was made from that at {replaces}");
        let hint = "look at what is in force now with `confold policy show`, and make your change to that";
        return Err(Refusal::new(Code::Conflict, detail).hint(hint));
    }
    let rules = request
        .rules
        .iter()
        .map(|rule| self::rule(view, rule))
        .collect::<Result<_, Refusal>>()?;
    let tokens = request
        .tokens
        .iter()
        .map(|row| token(view, row))
        .collect::<Result<_, Refusal>>()?;
    let policy = Policy { rules, tokens };
    policy
        .check()
        .map_err(|rejection| refusal(rejection, view.schema.as_deref()))?;
    Ok(Body::Policy { policy, replaces })
}

fn rule(view: &View, rule: &pb::PolicyRule) -> Result<Rule, Refusal> {
    let prefix = path(view, &rule.path)?;
    let right = |number: &i32| {
        let right = u64::try_from(*number).ok().and_then(Right::from_number);
        let detail = format!("right {number} does not exist");
        right.ok_or_else(|| Refusal::argument(detail, "use RIGHT_READ, RIGHT_WRITE, RIGHT_TAG or RIGHT_ADMIN"))
    };
    Ok(Rule {
        principal: rule.principal.clone(),
        prefix,
        rights: rule.rights.iter().map(right).collect::<Result<_, Refusal>>()?,
        strict: rule.strict,
    })
}

/// In canonical form, as the schema reads it: what is decided later is decided on steps and not on text.
fn path(view: &View, text: &str) -> Result<Path, Refusal> {
    match &view.schema {
        Some(schema) => {
            let path = schema
                .parse_path(text)
                .map_err(|rejection| refusal(rejection, Some(schema)))?;
            schema
                .resolve(&path)
                .map_err(|rejection| refusal(rejection, Some(schema)))?;
            Ok(path)
        }
        None if text.trim_matches('/').is_empty() => Ok(Path::root()),
        None => {
            let detail = format!("{text:?} cannot be read before there is a schema");
            let refused = refusal(Rejection::new(Code::SchemaInvalid, detail), None);
            Err(refused.hint("push a schema first, or give rights on / alone"))
        }
    }
}

fn token(view: &View, row: &pb::PolicyToken) -> Result<TokenRow, Refusal> {
    let mut id = [0; 8];
    hex::decode_to_slice(&row.id, &mut id)
        .map_err(|_| Refusal::argument(format!("{:?} is no token id", row.id), "a token id has 16 hex digits"))?;
    let mut hash = [0; 32];
    if row.hash.is_empty() {
        let known = view
            .policy
            .as_ref()
            .and_then(|row| row.policy.tokens.iter().find(|token| token.id == id));
        let Some(known) = known else {
            let detail = format!(
                "there is no token {} in the policy in force, and no hash is given",
                row.id
            );
            return Err(Refusal::new(Code::NotFound, detail).hint("make a token with `confold token create`"));
        };
        hash = known.hash;
    } else {
        let wrong = |_| Refusal::argument("this is no hash of a token", "a hash has 64 hex digits");
        hex::decode_to_slice(&row.hash, &mut hash).map_err(wrong)?;
    }
    Ok(TokenRow {
        id,
        hash,
        principal: row.principal.clone(),
        expires_ms: row.expires_ms,
    })
}
