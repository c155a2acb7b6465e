//! Typed reads and writes below a path.

use crate::{Connection, Error, Retries, Transaction, path};
use confold_model::code::Code;
use confold_wire::{
    api::Api,
    pb::{self, text_operation::Kind},
};
use prost::Message;
use std::sync::Arc;

/// A store, seen from one path: its root, unless [`Client::proxy`] said otherwise. Cheap to clone.
///
/// A client reads its own writes, also through several servers.
#[derive(Clone)]
pub struct Client {
    pub(crate) connection: Connection,
    pub(crate) scope: Arc<str>,
    author: Arc<str>,
    reason: Arc<str>,
    read: pb::Read,
    strict: bool,
}

/// A node as it was read.
#[derive(Clone, PartialEq, Debug)]
pub struct Found<M> {
    pub path: String,
    /// The key, unescaped; empty where the node is no element of a keyed container.
    pub key: String,
    pub value: M,
    /// The subtree's hash, children included.
    pub hash: String,
    /// The hash of the node's own data.
    pub data_hash: String,
}

impl Client {
    pub fn new(api: Arc<dyn Api>) -> Client {
        Client::of(Connection::new(api, ""))
    }

    pub fn of(connection: Connection) -> Client {
        Client {
            connection,
            scope: "/".into(),
            author: "".into(),
            reason: "".into(),
            read: pb::Read::default(),
            strict: false,
        }
    }

    /// One of several stores of a server.
    pub fn store(mut self, name: &str) -> Client {
        self.connection = self.connection.to_store(name);
        self
    }

    /// Who writes, as history shows it.
    pub fn author(mut self, author: &str) -> Client {
        self.author = author.into();
        self
    }

    /// Why, as history shows it.
    pub fn reason(mut self, reason: &str) -> Client {
        self.reason = reason.into();
        self
    }

    /// Writes refuse to change READ_ONLY fields.
    pub fn strict(mut self) -> Client {
        self.strict = true;
        self
    }

    pub fn retries(mut self, retries: Retries) -> Client {
        self.connection.retries = retries;
        self
    }

    /// What reads ask for: a past state, more consistency, a deadline.
    pub fn reading(mut self, read: pb::Read) -> Client {
        self.read = read;
        self
    }

    /// The same store seen from a path below this one, whether or not anything is there: paths given to the proxy are
    /// relative to it. Every proxy stands for itself; what it reads and writes is found by path, at the root.
    pub fn proxy(&self, path: impl AsRef<str>) -> Client {
        Client {
            scope: path::join(&self.scope, path.as_ref()).into(),
            ..self.clone()
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A node's data, without its children.
    pub async fn get<M: Message + Default>(&self, path: impl AsRef<str>) -> Result<M, Error> {
        Ok(self.read(path, 0).await?.value)
    }

    /// A node with everything below it.
    pub async fn get_deep<M: Message + Default>(&self, path: impl AsRef<str>) -> Result<M, Error> {
        Ok(self.read(path, -1).await?.value)
    }

    /// A node with `depth` levels of children (-1: all), or `None` where nothing is.
    pub async fn find<M: Message + Default>(
        &self,
        path: impl AsRef<str>,
        depth: i32,
    ) -> Result<Option<Found<M>>, Error> {
        match self.read(path, depth).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A node with `depth` levels of children, and its hashes.
    pub async fn read<M: Message + Default>(&self, path: impl AsRef<str>, depth: i32) -> Result<Found<M>, Error> {
        let path = path::join(&self.scope, path.as_ref());
        found(self.read_at(&path, depth, self.read_from()).await?)
    }

    /// All elements of a container with `depth` levels of children, in key order, at one revision.
    pub async fn list<M: Message + Default>(&self, path: impl AsRef<str>, depth: i32) -> Result<Vec<Found<M>>, Error> {
        let path = path::join(&self.scope, path.as_ref());
        self.list_at(&path, depth, self.read_from())
            .await?
            .into_iter()
            .map(found)
            .collect()
    }

    /// Replaces the data of a node that exists. Its children stay.
    pub async fn update(&self, path: impl AsRef<str>, value: &impl Message) -> Result<pb::Decision, Error> {
        self.one(
            path,
            Kind::Update(pb::TextUpdate {
                value: Some(encoded(value)),
                mask: Vec::new(),
            }),
        )
        .await
    }

    /// Replaces the named fields of a node's data; one that the value leaves at its default is cleared.
    pub async fn update_fields(
        &self,
        path: impl AsRef<str>,
        value: &impl Message,
        fields: &[&str],
    ) -> Result<pb::Decision, Error> {
        let mask = fields.iter().map(|&field| field.to_owned()).collect();
        self.one(
            path,
            Kind::Update(pb::TextUpdate {
                value: Some(encoded(value)),
                mask,
            }),
        )
        .await
    }

    /// A new element with its children; the path is the container's, or the element's own.
    pub async fn add(&self, path: impl AsRef<str>, value: &impl Message) -> Result<pb::Decision, Error> {
        self.one(path, Kind::Add(encoded(value))).await
    }

    /// Makes the subtree equal to the value, and creates it where it is absent.
    pub async fn put(&self, path: impl AsRef<str>, value: &impl Message) -> Result<pb::Decision, Error> {
        self.one(path, Kind::Put(encoded(value))).await
    }

    /// Makes an existing subtree equal to the value. On a container's path the value is the parent's message with that
    /// one field set.
    pub async fn replace(&self, path: impl AsRef<str>, value: &impl Message) -> Result<pb::Decision, Error> {
        self.one(path, Kind::Replace(encoded(value))).await
    }

    /// Takes an element and everything below it out of its container.
    pub async fn remove(&self, path: impl AsRef<str>) -> Result<pb::Decision, Error> {
        self.one(path, Kind::Remove(pb::Absent {})).await
    }

    /// Opens a transaction of the whole store on what is the latest revision now; its paths are relative to this client's.
    pub async fn transaction(&self) -> Result<Transaction, Error> {
        Transaction::open(self.clone()).await
    }

    /// Runs a function in a transaction and commits it; where something else was committed meanwhile that it conflicts
    /// with, runs it again on the new base, `tries` times in all.
    ///
    /// An error of the function itself cancels the transaction and is returned, unless it is a conflict. After the last
    /// try the conflict is returned, with all its paths.
    pub async fn run<T>(
        &self,
        tries: usize,
        mut function: impl AsyncFnMut(&mut Transaction) -> Result<T, Error>,
    ) -> Result<(T, pb::Decision), Error> {
        let mut tries = tries.max(1);
        loop {
            tries -= 1;
            let mut transaction = self.transaction().await?;
            let result = match function(&mut transaction).await {
                Ok(value) => transaction.commit().await.map(|decision| (value, decision)),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if tries > 0 && (error.is_conflict() || error.code() == Some(Code::Pruned)) => {
                    tracing::debug!(%error, tries, "running the transaction again");
                }
                result => return result,
            }
        }
    }

    /// Who asks and why, without an event id.
    pub(crate) fn proposal(&self) -> pb::Proposal {
        pb::Proposal {
            author: self.author.to_string(),
            reason: self.reason.to_string(),
            ..Default::default()
        }
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(crate) async fn read_at(&self, path: &str, depth: i32, read: pb::Read) -> Result<pb::Node, Error> {
        let request = pb::GetRequest {
            store: self.connection.store.clone(),
            read: Some(read),
            path: path.to_owned(),
            depth,
            format: pb::Format::Proto.into(),
            ..Default::default()
        };
        let mut answer = self
            .connection
            .again(|| self.connection.api.get(request.clone()))
            .await?;
        if let Some(at) = &answer.read_at {
            self.connection.saw(at.position);
        }
        if answer.container.is_some() {
            return Err(Error::refused(
                Code::IsAContainer,
                path,
                "it is a container: list it, or name one element",
            ));
        }
        answer
            .nodes
            .pop()
            .ok_or_else(|| Error::Answer(format!("the answer for {path} holds no node")))
    }

    pub(crate) async fn list_at(&self, path: &str, depth: i32, read: pb::Read) -> Result<Vec<pb::Node>, Error> {
        let request = pb::ListRequest {
            store: self.connection.store.clone(),
            read: Some(read),
            path: path.to_owned(),
            depth,
            format: pb::Format::Proto.into(),
            ..Default::default()
        };
        let mut pages = self
            .connection
            .again(|| self.connection.api.list_stream(request.clone()))
            .await?;
        let mut nodes = Vec::new();
        while let Some(page) = futures::StreamExt::next(&mut pages).await {
            nodes.extend(page?.nodes);
        }
        Ok(nodes)
    }

    fn read_from(&self) -> pb::Read {
        let token = self.connection.token();
        if self.read != pb::Read::default() || token.is_empty() {
            return self.read.clone();
        }
        pb::Read {
            consistency: pb::Consistency::AtLeast.into(),
            token,
            ..Default::default()
        }
    }

    async fn one(&self, path: impl AsRef<str>, kind: Kind) -> Result<pb::Decision, Error> {
        let path = path::join(&self.scope, path.as_ref());
        let operation = pb::TextOperation {
            path,
            strict: self.strict,
            base: None,
            kind: Some(kind),
        };
        let id = self.connection.mint().await?;
        let request = pb::CommitRequest {
            proposal: Some(self.proposal()),
            operations: vec![operation],
            ..Default::default()
        };
        self.connection.commit(id, request).await
    }
}

pub(crate) fn encoded(message: &impl Message) -> pb::Value {
    pb::Value {
        form: Some(pb::value::Form::Proto(message.encode_to_vec().into())),
        r#type: String::new(),
    }
}

/// The bytes of a value that was asked for as such.
pub(crate) fn bytes_of(node: &pb::Node) -> Result<bytes::Bytes, Error> {
    match node.value.as_ref().map(|value| &value.form) {
        None | Some(None) => Ok(bytes::Bytes::new()),
        Some(Some(pb::value::Form::Proto(bytes))) => Ok(bytes.clone()),
        Some(Some(_)) => Err(Error::Answer(format!(
            "the answer for {} is not in protobuf's wire format",
            node.path
        ))),
    }
}

fn found<M: Message + Default>(node: pb::Node) -> Result<Found<M>, Error> {
    let value = M::decode(bytes_of(&node)?)
        .map_err(|error| Error::Answer(format!("{} is no such message: {error}", node.path)))?;
    Ok(Found {
        path: node.path,
        key: node.key,
        value,
        hash: node.hash,
        data_hash: node.data_hash,
    })
}
