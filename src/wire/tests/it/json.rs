//! The service's own messages over HTTP.

use confold_model::code::Code;
use confold_wire::{json as wire_json, pb, status};
use serde_json::json;

const COMMIT: &str = "confold.v1.CommitRequest";

#[test]
fn a_commit_is_written_in_plain_json_with_its_values_inline() {
    let text = r#"{
        "proposal": {"author": "ada", "reason": "new line terminal"},
        "guards": [{"path": "/devices/olt-1", "absent": {}}],
        "operations": [
            {"path": "/devices", "add": {"json": {"id": "olt-1", "ports": [{"number": 1}]}}},
            {"path": "/clock", "update": {"value": {"json": "{\"timezone\": \"UTC\"}"}, "mask": ["timezone"]}},
            {"path": "/vlans/100", "remove": {}}
        ]
    }"#;
    let commit: pb::CommitRequest = wire_json::from_json(COMMIT, text).unwrap();
    assert_eq!(
        commit.proposal.as_ref().map(|proposal| proposal.author.as_str()),
        Some("ada")
    );
    let form = |operation: &pb::TextOperation| match &operation.kind {
        Some(pb::text_operation::Kind::Add(value)) => value.form.clone(),
        Some(pb::text_operation::Kind::Update(update)) => update.value.clone().and_then(|value| value.form),
        _ => None,
    };
    let json = |text: &str| Some(pb::value::Form::Json(text.to_owned()));
    assert_eq!(
        form(&commit.operations[0]),
        json(r#"{"id":"olt-1","ports":[{"number":1}]}"#)
    );
    assert_eq!(form(&commit.operations[1]), json(r#"{"timezone": "UTC"}"#));

    let shown = wire_json::to_json(COMMIT, &commit).unwrap();
    assert_eq!(
        shown["operations"][0]["add"]["json"],
        json!({"id": "olt-1", "ports": [{"number": 1}]})
    );
    assert_eq!(
        shown["operations"][1]["update"]["value"]["json"],
        json!({"timezone": "UTC"})
    );
    assert_eq!(shown["operations"][2], json!({"path": "/vlans/100", "remove": {}}));
    assert_eq!(
        wire_json::from_json_value::<pb::CommitRequest>(COMMIT, &shown).map(|again| again.guards),
        Ok(commit.guards)
    );
}

#[test]
fn a_value_that_only_looks_like_a_string_of_json_stays_what_it_is() {
    let value = |text: &str| pb::Value {
        form: Some(pb::value::Form::Json(text.to_owned())),
        r#type: String::new(),
    };
    assert_eq!(
        wire_json::to_json("confold.v1.Value", &value("not json")).unwrap(),
        json!({"json": "not json"})
    );
    assert_eq!(
        wire_json::to_json("confold.v1.Value", &value("18446744073709551615"))
            .unwrap()
            .to_string(),
        r#"{"json":18446744073709551615}"#
    );
}

#[test]
fn a_request_that_does_not_fit_is_refused_by_name() {
    let error =
        wire_json::from_json::<pb::GetRequest>("confold.v1.GetRequest", r#"{"read": {"att": "v1"}}"#).unwrap_err();
    assert_eq!(error.code, Code::UnknownField);
    assert_eq!(
        error.to_string(),
        "read: confold.v1.Read has no field \"att\" (did you mean at?)"
    );
}

#[test]
fn an_error_over_http_shows_its_detail() {
    let mut detail = status::error_detail(Code::AlreadyExists, "there is one already");
    detail.path = "/devices/olt-1".to_owned();
    let body = wire_json::to_json("google.rpc.Status", &status::rpc_status(&status::status(&detail))).unwrap();
    assert_eq!(
        body,
        json!({
            "code": 6,
            "message": "ALREADY_EXISTS: /devices/olt-1: there is one already",
            "details": [{
                "@type": "type.googleapis.com/confold.v1.ErrorDetail",
                "code": "ALREADY_EXISTS",
                "number": 4,
                "path": "/devices/olt-1",
                "detail": "there is one already",
                "hint": "update it, or put it where it may or may not exist",
            }],
        })
    );
}

#[test]
fn the_descriptors_for_reflection_hold_the_service_and_its_comments() {
    let pool = prost_reflect::DescriptorPool::decode(confold_wire::FILE_DESCRIPTOR_SET).unwrap();
    let service = pool.get_service_by_name("confold.v1.Store").unwrap();
    assert!(
        service
            .methods()
            .any(|method| method.name() == "CommitStream" && method.is_client_streaming())
    );
    let file = service.parent_file();
    let comments = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    assert!(
        comments
            .location
            .iter()
            .any(|location| location.leading_comments().contains("Proposes one transaction"))
    );
}
