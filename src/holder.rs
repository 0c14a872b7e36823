//! Holder ids: the value that stands in a lock key and in a queue.
//!
//! `<uuid>:<generation>:<client name>:<unix ms of the request>`. The uuid is the request's: equal tickets
//! are ordered by it, that is by chance. A client that can be told of a handoff draws its requests' uuids
//! as version 8, whose last twelve digits (the *node* of the older UUID layouts) are the client's own and
//! name its channel; a client that cannot draws version 4. The generation counts how often the request gave a
//! vote back: a late request of an older generation can do nothing to a newer one (S4). Name and time
//! are for people; no decision reads them.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use uuid::Uuid;

/// What a client writes into all its holder ids.
#[derive(Clone, Debug)]
pub(crate) struct ClientId {
    name: Arc<str>,
    /// Six bytes that name the client's channel.
    node: [u8; 6],
    listens: bool,
}

impl ClientId {
    /// A new client; `listens` if some node can push to it.
    pub(crate) fn new(random: Uuid, name: &str, listens: bool) -> Self {
        let [.., a, b, c, d, e, f] = *random.as_bytes();
        Self {
            name: name.into(),
            node: [a, b, c, d, e, f],
            listens,
        }
    }

    /// The channel on which this client hears of handoffs, the same on every node.
    pub(crate) fn channel(&self) -> String {
        let [a, b, c, d, e, f] = self.node;
        format!("{CHANNEL_PREFIX}{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
    }

    fn uuid(&self, random: Uuid) -> Uuid {
        let mut bytes = *random.as_bytes();
        if self.listens {
            bytes[6] = (bytes[6] & 0x0f) | 0x80;
            bytes[10..].copy_from_slice(&self.node);
        }
        Uuid::from_bytes(bytes)
    }
}

/// What every channel starts with, so that an ACL can allow just these.
pub(crate) const CHANNEL_PREFIX: &str = "redlock-fifo:";

/// The identity under which one request stands on the nodes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HolderId {
    uuid: Uuid,
    generation: u32,
    text: Arc<str>,
}

impl HolderId {
    /// The id of a new request.
    pub(crate) fn new(random: Uuid, client: &ClientId, unix_millis: u64) -> Self {
        let uuid = client.uuid(random);
        let mut text = String::with_capacity(64 + client.name.len());
        // Writing to a string cannot fail.
        let _ = write!(text, "{uuid}:0:{}:{unix_millis}", client.name);
        Self {
            uuid,
            generation: 0,
            text: text.into(),
        }
    }

    /// The id under which the same request stands in line after it gave its votes back.
    pub(crate) fn next(&self) -> Self {
        let generation = self.generation.saturating_add(1);
        Self {
            uuid: self.uuid,
            generation,
            text: self.at(generation),
        }
    }

    /// The request, whatever its generation.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// How often the request gave a vote back.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The id as the nodes stored it in another generation.
    pub(crate) fn at(&self, generation: u32) -> Arc<str> {
        format!("{}:{generation}{}", self.uuid, self.tail()).into()
    }

    /// The id as the nodes store it.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// `:<client name>:<unix ms>`.
    fn tail(&self) -> &str {
        let name = self.text.match_indices(':').nth(1);
        name.map_or("", |(at, _)| &self.text[at..])
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A stored id taken apart. Ids of other clients (redlock-py, redsync, …) do not parse; they still hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) generation: u32,
    pub(crate) name: &'a str,
    pub(crate) unix_millis: u64,
}

impl<'a> Parts<'a> {
    /// Takes `text` apart, or `None` if one of our clients did not write it.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        let (uuid, rest) = text.split_once(':')?;
        let (generation, rest) = rest.split_once(':')?;
        let (name, unix_millis) = rest.rsplit_once(':')?;
        Some(Self {
            uuid: Uuid::try_parse(uuid).ok().filter(|_| uuid.len() == 36)?,
            generation: generation.parse().ok()?,
            name,
            unix_millis: unix_millis.parse().ok()?,
        })
    }

    /// The channel of the client that wrote this id, if it listens.
    pub(crate) fn channel(&self) -> Option<String> {
        let text = self.uuid.hyphenated().to_string();
        (self.uuid.get_version_num() == 8).then(|| format!("{CHANNEL_PREFIX}{}", &text[24..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::Rng;

    #[test]
    fn an_id_is_taken_apart_as_it_was_put_together() {
        let client = ClientId::new(Rng.uuid(), "web-1:4242", true);
        let id = HolderId::new(Rng.uuid(), &client, 1_700_000_000_000).next();
        let parts = Parts::of(id.text()).expect("our own id");
        assert_eq!(parts.uuid, id.uuid());
        assert_eq!(parts.generation, 1);
        assert_eq!(parts.name, "web-1:4242");
        assert_eq!(parts.unix_millis, 1_700_000_000_000);
        assert_eq!(parts.channel(), Some(client.channel()));
    }

    #[test]
    fn a_client_that_does_not_listen_names_no_channel() {
        let client = ClientId::new(Rng.uuid(), "batch", false);
        let id = HolderId::new(Rng.uuid(), &client, 0);
        assert_eq!(Parts::of(id.text()).expect("our own id").channel(), None);
    }

    #[test]
    fn a_foreign_value_is_not_an_id() {
        for text in ["", "abcde", "a:b:c:d", "0123456789abcdef0123", "::::"] {
            assert_eq!(Parts::of(text), None, "{text}");
        }
    }
}
