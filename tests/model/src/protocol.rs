//! What may happen next, and what must hold whatever does.

use stateright::{Model, Property};

use crate::{
    client::{Bug, Client, NODES, Phase},
    node::{Ask, Node, Say},
    state::{Body, Message, State},
};

/// More give-backs in a row than a few round trips.
const MANY: u8 = 4;

/// What is explored.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub name: &'static str,
    pub clients: usize,
    /// Whether the first of them begins as the holder.
    pub held: bool,
    /// Whether each of them begins with the vote of one node.
    pub split: bool,
    /// The counters that the nodes begin with.
    pub seqs: [u8; NODES],
    /// How many messages may be lost,
    pub lost: u8,
    /// how many requests given up that are carried out all the same,
    pub late: u8,
    /// how many answers come later than something else that happens,
    pub slow: u8,
    /// and how many clients may leave before they are served.
    pub leavers: u8,
    /// How often each client may poll.
    pub polls: u8,
    /// How many steps are taken at most; 0: all there are.
    pub depth: usize,
    pub bug: Bug,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Start(usize),
    Poll(usize),
    /// Releases, or leaves.
    End(usize),
    Deliver(Message),
    /// A request is carried out, and the answer is long under way.
    Slowly(Message),
    Lose(Message),
    GiveUp(Message),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut clients = vec![Client::default(); self.clients];
        let mut nodes = self.seqs.map(|seq| Node {
            seq,
            ..Node::default()
        });
        for client in &mut clients {
            client.polls = self.polls;
        }
        if self.held {
            clients[0].phase = Phase::Held;
            for node in &mut nodes {
                node.lock = Some(clients[0].id(0));
            }
        }
        let mut state = State {
            nodes,
            clients,
            net: Vec::new(),
            lost: self.lost,
            late: self.late,
            slow: self.slow,
            leavers: self.leavers,
            served: u8::from(self.held),
            token: 0,
            fell: false,
            before: vec![vec![false; self.clients]; self.clients],
            passed: false,
        };
        for me in (0..self.clients).filter(|_| self.split) {
            state = self.next_state(&state, Action::Start(me)).unwrap();
            let free = |message: &&Message| {
                usize::from(message.id.0) == me && state.nodes[message.node].lock.is_none()
            };
            let first = state.net.iter().find(free).unwrap().clone();
            state = self.next_state(&state, Action::Deliver(first)).unwrap();
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (me, client) in state.clients.iter().enumerate() {
            let waits = matches!(
                client.phase,
                Phase::Asking | Phase::Waiting | Phase::Fencing
            );
            match client.phase {
                Phase::Idle => actions.push(Action::Start(me)),
                Phase::Held => actions.push(Action::End(me)),
                _ => {}
            }
            if waits && state.leavers > 0 {
                actions.push(Action::End(me));
            }
            // Whoever holds acts first: a poll changes nothing then.
            let quiet = state.net.is_empty()
                && !state.clients.iter().any(|other| other.phase == Phase::Held);
            if waits && client.polls > 0 && quiet {
                actions.push(Action::Poll(me));
            }
        }
        for (place, message) in state.net.iter().enumerate() {
            if place > 0 && state.net[place - 1].wire() == message.wire() && !message.late {
                continue;
            }
            actions.push(Action::Deliver(message.clone()));
            let answered =
                matches!(message.body, Body::Ask(ask) if ask != Ask::Release) && !message.void;
            if answered && state.slow > 0 {
                actions.push(Action::Slowly(message.clone()));
            }
            // A release is repeated until it is confirmed.
            let once = message.body != Body::Ask(Ask::Release);
            if once && state.lost > 0 {
                actions.push(Action::Lose(message.clone()));
            }
            if once && matches!(message.body, Body::Ask(_)) && !message.void && state.late > 0 {
                actions.push(Action::GiveUp(message.clone()));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start(me) => {
                for other in 0..self.clients {
                    let earlier = &state.clients[other];
                    state.before[me][other] = earlier.recorded && earlier.phase != Phase::Over;
                }
                let questions = state.clients[me].start();
                state.send(me, questions);
            }
            Action::Poll(me) => {
                let questions = state.clients[me].poll();
                state.send(me, questions);
            }
            Action::End(me) => {
                state.leavers -= u8::from(state.clients[me].phase != Phase::Held);
                let questions = state.clients[me].end(self.bug);
                state.forget(me);
                state.send(me, questions);
            }
            Action::Deliver(message) => {
                state.take(&message);
                let answer = self.deliver(&mut state, message);
                if let Some(answer) = answer {
                    self.deliver(&mut state, answer);
                }
            }
            Action::Slowly(message) => {
                state.take(&message);
                state.slow -= 1;
                let answer = self.deliver(&mut state, message);
                answer.into_iter().for_each(|answer| state.put(answer));
            }
            Action::Lose(message) => {
                state.take(&message);
                state.lost -= 1;
                let client = &mut state.clients[usize::from(message.id.0)];
                if !message.void && !matches!(message.body, Body::Say(Say::Told { .. })) {
                    client.unanswered(message.node);
                }
            }
            Action::GiveUp(message) => {
                state.take(&message);
                state.late -= 1;
                state.clients[usize::from(message.id.0)].unanswered(message.node);
                state.put(Message {
                    void: true,
                    late: true,
                    ..message
                });
            }
        }
        state.prune();
        state.canonical();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: one holder at a time", |_, state: &State| {
                state
                    .clients
                    .iter()
                    .filter(|client| client.phase == Phase::Held)
                    .count()
                    <= 1
            }),
            Property::always("S2: tokens rise", |_, state: &State| !state.fell),
            Property::always("F1: in order of the tickets", |_, state: &State| {
                !state.passed
            }),
            Property::always("L1: nobody is stuck", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.is_over()
            }),
            Property::always("L3: split votes resolve", |_, state: &State| {
                state.clients.iter().all(|client| client.generation < MANY)
            }),
            Property::always("C1: nothing is left", |_, state: &State| {
                let clean = |node: &Node| node.lock.is_none() && node.queue.is_empty();
                !state.is_over() || state.nodes.iter().all(clean)
            }),
            // That there is something to see.
            Property::sometimes("all are served", |_, state: &State| {
                state.is_over() && usize::from(state.served) == state.clients.len()
            }),
            Property::sometimes("votes are given back", |_, state: &State| {
                state.clients.iter().any(|client| client.generation > 0)
            }),
            Property::sometimes("a token is fenced", |_, state: &State| {
                state
                    .clients
                    .iter()
                    .any(|client| client.phase == Phase::Fencing)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.clients.iter().all(|client| client.generation <= MANY)
    }
}

impl Protocol {
    fn deliver(&self, state: &mut State, message: Message) -> Option<Message> {
        let me = usize::from(message.id.0);
        let node = message.node;
        match message.body {
            Body::Ask(ask) => {
                let careless = self.bug == Bug::ReleaseWithoutComparing;
                let (say, told) = state.nodes[node].run(message.id, ask, careless);
                let say = say.filter(|_| !message.void);
                if let Some((id, say)) = told {
                    state.put(Message {
                        node,
                        id,
                        body: Body::Say(say),
                        void: false,
                        late: false,
                    });
                }
                // What comes after the release is released again.
                let again = state.clients[me].phase == Phase::Over && ask != Ask::Release;
                let cared_for = self.bug != Bug::CleanUpOfAQuorumOnly || node < self.bug.quorum();
                if again && cared_for {
                    state.send(me, vec![(node, Ask::Release)]);
                }
                say.map(|say| Message {
                    body: Body::Say(say),
                    ..message
                })
            }
            Body::Say(say) => {
                let held = state.clients[me].phase == Phase::Held;
                let (questions, void) = state.clients[me].hear(node, say, self.bug);
                if void {
                    state.forget(me);
                }
                state.send(me, questions);
                if !held && state.clients[me].phase == Phase::Held {
                    state.serve(me);
                }
                None
            }
        }
    }
}
