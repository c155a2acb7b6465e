//! A store's schema on this side, for commands that take values apart: both the model's tables, which know what is a
//! child, and the types that know names and formats.

use crate::error::{Exit, Failure};
use confold_client::Connection;
use confold_model::{
    path::{Path, Target},
    schema::{Schema, TypeId},
};
use confold_wire::{dynamic::Types, pb};

pub struct StoreTypes {
    pub schema: Schema,
    pub types: Types,
    pub root_message: String,
}

impl StoreTypes {
    pub async fn of(connection: &Connection, read: Option<pb::Read>) -> Result<StoreTypes, Failure> {
        let request = pb::GetSchemaRequest {
            store: connection.store.clone(),
            read,
        };
        let answer = connection.again(|| connection.api.get_schema(request.clone())).await?;
        if let Some(at) = &answer.read_at {
            connection.saw(at.position);
        }
        StoreTypes::new(&answer.descriptor_set, &answer.root_message)
    }

    pub fn new(descriptor_set: &[u8], root_message: &str) -> Result<StoreTypes, Failure> {
        let schema = Schema::compile(descriptor_set, root_message).map_err(|problems| {
            let failure = Failure::new(Exit::Damaged, "the store's schema cannot be used here");
            problems
                .into_iter()
                .fold(failure, |failure, problem| failure.cause(problem))
        })?;
        Ok(StoreTypes {
            schema,
            types: Types::new(descriptor_set)?,
            root_message: root_message.to_owned(),
        })
    }

    pub fn name(&self, ty: TypeId) -> &str {
        &self.schema.message(ty).full_name
    }

    /// What a path names.
    pub fn target(&self, text: &str) -> Result<(Path, Target<'_>), Failure> {
        let path = self
            .schema
            .parse_path(text)
            .map_err(|rejection| refused(text, &rejection))?;
        let target = self
            .schema
            .resolve(&path)
            .map_err(|rejection| refused(text, &rejection))?;
        Ok((path, target))
    }

    /// The type of the node at a path.
    pub fn node_type(&self, text: &str) -> Result<TypeId, Failure> {
        match self.target(text)?.1 {
            Target::Node { ty, .. } => Ok(ty),
            Target::Container { .. } => {
                Err(Failure::of(confold_model::code::Code::IsAContainer, "it is a container").at(text))
            }
        }
    }
}

pub fn refused(text: &str, rejection: &confold_model::code::Rejection) -> Failure {
    Failure::of(rejection.code, rejection.detail.clone()).at(text)
}
