//! Everything that there is at a moment: nodes, clients, and what is under way between them.

use crate::{
    client::{Client, NODES, Phase, Questions},
    node::{Ask, Id, Node, Say},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: [Node; NODES],
    pub clients: Vec<Client>,
    /// By wire, which keeps the order of what one client asks of one node.
    pub net: Vec<Message>,
    pub lost: u8,
    pub late: u8,
    pub slow: u8,
    pub leavers: u8,
    /// How many were served, and the last fencing token.
    pub served: u8,
    pub token: u8,
    /// A token was not higher than the one before.
    pub fell: bool,
    /// Whose ticket was recorded before which client asked: `before[later][earlier]`.
    pub before: Vec<Vec<bool>>,
    /// Somebody was served before one whose ticket was recorded before it asked.
    pub passed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    pub node: usize,
    pub id: Id,
    pub body: Body,
    /// Nobody waits for the answer.
    pub void: bool,
    /// It is on an old connection, which keeps no order.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Body {
    Ask(Ask),
    Say(Say),
}

impl State {
    pub fn serve(&mut self, me: usize) {
        let token = self.clients[me].token;
        self.fell |= token <= self.token;
        self.token = token;
        self.served += 1;
        let waits = |client: &Client| matches!(client.phase, Phase::Waiting | Phase::Fencing);
        let mut others = self.clients.iter().zip(&self.before[me]);
        self.passed |= others.any(|(earlier, before)| *before && waits(earlier));
    }

    pub fn send(&mut self, me: usize, questions: Questions) {
        let id = self.clients[me].id(me as u8);
        for (node, ask) in questions {
            self.put(Message {
                node,
                id,
                body: Body::Ask(ask),
                void: ask == Ask::Release,
                late: false,
            });
        }
    }

    /// Nobody waits any more for what is under way.
    pub fn forget(&mut self, me: usize) {
        for message in self
            .net
            .iter_mut()
            .filter(|message| usize::from(message.id.0) == me)
        {
            message.void = true;
        }
    }

    /// Drops what nobody heeds.
    pub fn prune(&mut self) {
        let clients = &self.clients;
        self.net.retain(|message| {
            let client = &clients[usize::from(message.id.0)];
            let ended = matches!(client.phase, Phase::Held | Phase::Over);
            let stale = message.void || ended || message.id.1 != client.generation;
            !stale || matches!(message.body, Body::Ask(_))
        });
    }

    /// Forgets what has no bearing any more, and sorts the nodes: no one is different from another.
    pub fn canonical(&mut self) {
        for (me, client) in self.clients.iter_mut().enumerate() {
            if matches!(client.phase, Phase::Held | Phase::Over) {
                let Client {
                    phase, generation, ..
                } = *client;
                *client = Client::default();
                (client.phase, client.generation) = (phase, generation);
                self.before[me].fill(false);
            }
        }
        let at = |node: usize| self.net.iter().filter(move |message| message.node == node);
        let mut order = [0, 1, 2];
        order.sort_by_cached_key(|&node| {
            let messages: Vec<_> = at(node)
                .map(|message| (message.id, message.body, message.void, message.late))
                .collect();
            let seats: Vec<_> = self
                .clients
                .iter()
                .map(|client| client.seats[node].clone())
                .collect();
            (self.nodes[node].clone(), seats, messages)
        });
        if order == [0, 1, 2] {
            return;
        }
        self.nodes = order.map(|node| self.nodes[node].clone());
        for client in &mut self.clients {
            client.seats = order.map(|node| client.seats[node].clone());
        }
        for message in &mut self.net {
            message.node = order.iter().position(|node| *node == message.node).unwrap();
        }
        self.net.sort_by_key(Message::wire);
    }

    pub fn put(&mut self, message: Message) {
        let place = self
            .net
            .partition_point(|other| other.wire() <= message.wire());
        self.net.insert(place, message);
    }

    pub fn take(&mut self, message: &Message) {
        let place = self.net.iter().position(|other| other == message).unwrap();
        self.net.remove(place);
    }

    pub fn is_over(&self) -> bool {
        self.net.is_empty()
            && self
                .clients
                .iter()
                .all(|client| client.phase == Phase::Over)
    }
}

impl Message {
    pub fn wire(&self) -> (usize, u8, bool, bool) {
        (
            self.node,
            self.id.0,
            self.late,
            matches!(self.body, Body::Say(_)),
        )
    }
}
