//! One MQTT 5 session: readings out, acknowledgements in.
//!
//! Each connection starts clean, and what was not acknowledged before is sent again: the queue is
//! the only memory, the engine knows a reading by boot id and number. Up to [`IN_FLIGHT`] readings
//! wait for their PUBACK at once; a reading leaves the queue when it and all before it have theirs.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZero;

use embassy_futures::select::{Either, Either3, select, select3};
use embedded_io_async::{ErrorType, Read, Write};
use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use rust_mqtt::buffer::BufferProvider;
use rust_mqtt::client::event::Event;
use rust_mqtt::client::options::{
    ConnectOptions, DisconnectOptions, PublicationOptions, TopicReference, WillOptions,
};
use rust_mqtt::client::{Client, MqttError};
use rust_mqtt::config::KeepAlive;
use rust_mqtt::types::{MqttBinary, MqttString, PacketIdentifier, ReasonCode, TopicName};

use crate::shared::Shared;
use crate::{Board, Network};

/// How many readings are sent before the first of them is acknowledged.
pub(crate) const IN_FLIGHT: usize = 16;

/// The most bytes of one packet that a broker may send: it has nothing to say that is longer.
const MAX_PACKET: usize = 1024;

/// How often a time server is asked while there is no time.
const ASK_AGAIN_MS: u64 = 60_000;

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// There is nothing left to send, and the node is to sleep.
    Done,
    /// For this reason, in words.
    Lost(String),
}

/// Memory for what the broker sends. A length that it claims never decides how much is taken.
#[derive(Debug)]
struct Bounded;

impl BufferProvider<'_> for Bounded {
    type Buffer = Box<[u8]>;
    type ProvisionError = ();

    fn provide_buffer(&mut self, len: usize) -> Result<Box<[u8]>, ()> {
        if len > MAX_PACKET {
            return Err(());
        }
        Ok(alloc::vec![0; len].into_boxed_slice())
    }
}

/// Gathers the pieces of a packet: over TLS each would be a record of its own otherwise.
struct Gathered<L> {
    link: L,
    waiting: Vec<u8>,
}

impl<L: ErrorType> ErrorType for Gathered<L> {
    type Error = L::Error;
}

impl<L: Read> Read for Gathered<L> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, L::Error> {
        self.link.read(buf).await
    }
}

impl<L: Write> Write for Gathered<L> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, L::Error> {
        self.waiting.extend_from_slice(buf);
        Ok(buf.len())
    }

    async fn flush(&mut self) -> Result<(), L::Error> {
        self.link.write_all(&self.waiting).await?;
        self.waiting.clear();
        self.link.flush().await
    }
}

type Mqtt<'c, L> = Client<'c, 'c, Gathered<L>, Bounded, 0, 1, { IN_FLIGHT + 1 }, 0, 2, 0, 0>;

/// What an error of the MQTT layer means.
fn words<const P: usize>(error: &MqttError<'_, P>) -> String {
    match error {
        MqttError::Network(_) => "the connection broke".into(),
        MqttError::Server => "the broker does not keep to MQTT 5".into(),
        MqttError::Alloc => format!("the broker sent more than {MAX_PACKET} bytes at once"),
        MqttError::Disconnect {
            reason,
            reason_string,
            ..
        } => {
            let why = reason_words(*reason);
            match reason_string {
                Some(text) => format!("the broker closed: {why} ({})", quoted(text.as_str())),
                None => format!("the broker closed: {why}"),
            }
        }
        other => format!("MQTT: {other:?}"),
    }
}

/// A text of the broker's, for the console.
fn quoted(text: &str) -> String {
    text.chars()
        .take(100)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn reason_words(reason: ReasonCode) -> String {
    match reason {
        ReasonCode::BadUserNameOrPassword => "wrong user name or password, see broker.user".into(),
        ReasonCode::NotAuthorized => {
            "not authorized: wrong user or password, or this user may not publish here".into()
        }
        ReasonCode::ClientIdentifierNotValid => {
            "it does not take this sensor id as client id".into()
        }
        ReasonCode::UnsupportedProtocolVersion => "it does not speak MQTT 5".into(),
        ReasonCode::Banned => "it has banned this node".into(),
        ReasonCode::ServerBusy | ReasonCode::ServerUnavailable => "it is busy".into(),
        ReasonCode::ServerShuttingDown => "it is shutting down".into(),
        ReasonCode::SessionTakenOver => {
            "another client has the same id: two nodes with one config?".into()
        }
        ReasonCode::KeepAliveTimeout => "it did not hear from us".into(),
        ReasonCode::QuotaExceeded => "its quota is used up".into(),
        other => format!("{other:?}"),
    }
}

/// A publish that waits for its PUBACK.
struct Sent {
    packet: PacketIdentifier,
    /// Number of the reading in the queue; none for the status.
    number: Option<u64>,
    at_ms: u64,
    acknowledged: bool,
}

/// Runs a session on an open connection until it ends. Whatever has to be awaited has a time-out.
pub(crate) async fn run<B: Board, N: Network, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    network: &N,
    link: N::Link<'_>,
    until_empty: bool,
) -> Over {
    let timing = &shared.timing;
    let owed_ms = shared.board.uptime_ms().saturating_add(timing.answer_ms);
    shared.due.uplink_at(owed_ms);
    let mut buffer = Bounded;
    let mut client: Mqtt<'_, _> = Client::new(&mut buffer);
    let link = Gathered {
        link,
        waiting: Vec::new(),
    };
    let topic = vigie_wire::topic::status(&shared.config.id);
    let connect = connect(shared, &mut client, link, &topic);
    match within(&shared.board, timing.answer_ms, connect).await {
        None => return Over::Lost("the broker does not answer".into()),
        Some(Err(why)) => return Over::Lost(why),
        Some(Ok(())) => {}
    }
    shared.connected().await;
    let mut running = Running {
        shared,
        client,
        sent: VecDeque::with_capacity(IN_FLIGHT + 1),
        next: shared.queue.lock().await.first(),
        spoke_ms: shared.board.uptime_ms(),
        heard_ms: shared.board.uptime_ms(),
        asked_ms: None,
        keep_alive_ms: 0,
    };
    running.keep_alive_ms = match running.client.shared_config().keep_alive {
        KeepAlive::Seconds(seconds) => u64::from(seconds.get()) * 1000,
        KeepAlive::Infinite => timing.keep_alive_ms,
    };
    running
        .until_over(network, &topic, until_empty)
        .await
        .unwrap_or_else(Over::Lost)
}

async fn connect<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash, L: Read + Write>(
    shared: &Shared<B, F, S>,
    client: &mut Mqtt<'_, L>,
    link: Gathered<L>,
    topic: &str,
) -> Result<(), String> {
    const TOO_LONG: &str = "a text of the config is too long for MQTT";
    let seconds = u16::try_from(shared.timing.keep_alive_ms / 1000).unwrap_or(u16::MAX);
    let will_topic = topic_name(topic).ok_or(TOO_LONG)?;
    let gone = MqttBinary::from_slice(b"offline").map_err(|_| TOO_LONG)?;
    let mut options = ConnectOptions::new()
        .clean_start()
        .request_problem_information()
        .will(WillOptions::new(will_topic, gone).retain().at_least_once());
    if let Some(seconds) = NonZero::new(seconds) {
        options = options.keep_alive(KeepAlive::Seconds(seconds));
    }
    if let Some(most) = u32::try_from(MAX_PACKET).ok().and_then(NonZero::new) {
        options = options.maximum_packet_size(most);
    }
    let broker = &shared.config.broker;
    if let Some(user) = &broker.user {
        options = options.user_name(MqttString::from_str(user).map_err(|_| TOO_LONG)?);
    }
    if let Some(password) = &broker.password {
        let password = MqttBinary::from_slice(password.as_bytes()).map_err(|_| TOO_LONG)?;
        options = options.password(password);
    }
    let id = MqttString::from_str(shared.config.id.as_str()).map_err(|_| TOO_LONG)?;
    match client.connect(link, &options, Some(id)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(words(&error)),
    }
}

fn topic_name(topic: &str) -> Option<TopicName<'_>> {
    TopicName::new(MqttString::from_str(topic).ok()?)
}

/// The result of `work`, unless it takes longer.
pub(crate) async fn within<T>(
    board: &impl Board,
    ms: u64,
    work: impl Future<Output = T>,
) -> Option<T> {
    let deadline = board.uptime_ms().saturating_add(ms);
    match select(work, board.sleep_until(deadline)).await {
        Either::First(done) => Some(done),
        Either::Second(()) => None,
    }
}

struct Running<'s, 'c, B, F: MultiwriteNorFlash, S: MultiwriteNorFlash, L: Read + Write> {
    shared: &'s Shared<B, F, S>,
    client: Mqtt<'c, L>,
    /// Publishes that wait for their PUBACK, in the order in which they left.
    sent: VecDeque<Sent>,
    /// The number of the next reading to send.
    next: u64,
    spoke_ms: u64,
    heard_ms: u64,
    /// Since when a ping is not answered.
    asked_ms: Option<u64>,
    keep_alive_ms: u64,
}

impl<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash, L: Read + Write>
    Running<'_, '_, B, F, S, L>
{
    /// # Errors
    ///
    /// Why the session cannot go on.
    async fn until_over(
        &mut self,
        network: &impl Network,
        topic: &str,
        until_empty: bool,
    ) -> Result<Over, String> {
        let shared = self.shared;
        self.publish(topic, b"online", true, None).await?;
        let mut ask_ms = shared.board.uptime_ms().saturating_add(ASK_AGAIN_MS);
        loop {
            self.send_readings().await?;
            if until_empty && self.sent.is_empty() {
                let options = DisconnectOptions::new();
                let bye = self.client.disconnect(&options);
                let _gone_already = within(&shared.board, shared.timing.answer_ms, bye).await;
                return Ok(Over::Done);
            }
            let wake_ms = self.deadline_ms().min(ask_ms);
            shared.due.uplink_at(wake_ms);
            let event = select3(
                self.client.poll_header(),
                shared.fresh.wait(),
                shared.board.sleep_until(wake_ms),
            )
            .await;
            match event {
                Either3::First(header) => {
                    let header = header.map_err(|error| words(&error))?;
                    let body = self.client.poll_body(header);
                    let event = within(&shared.board, shared.timing.answer_ms, body)
                        .await
                        .ok_or("the broker stopped in the middle of a packet")?
                        .map_err(|error| words(&error))?;
                    self.heard_ms = shared.board.uptime_ms();
                    let answer = Answer::of(&event);
                    self.take(answer).await?;
                }
                Either3::Second(()) => {}
                Either3::Third(()) => {
                    let now_ms = shared.board.uptime_ms();
                    if shared.clock.get().is_stale(now_ms) && now_ms >= ask_ms {
                        shared.ask_the_time(network).await;
                        ask_ms = shared.board.uptime_ms().saturating_add(ASK_AGAIN_MS);
                    } else if now_ms >= ask_ms {
                        ask_ms = now_ms.saturating_add(ASK_AGAIN_MS);
                    }
                    self.keep_alive().await?;
                }
            }
        }
    }

    /// When something has to be done although nothing comes.
    fn deadline_ms(&self) -> u64 {
        let ping_ms = self.spoke_ms.saturating_add(self.keep_alive_ms / 2);
        match self.silent_since_ms() {
            Some(since_ms) => since_ms.saturating_add(self.shared.timing.answer_ms),
            None => ping_ms,
        }
    }

    /// Since when an answer is owed, if one is.
    fn silent_since_ms(&self) -> Option<u64> {
        let published_ms = self.sent.front().map(|sent| sent.at_ms);
        // The one that has waited longest.
        let asked_ms = match (self.asked_ms, published_ms) {
            (Some(asked_ms), Some(published_ms)) => asked_ms.min(published_ms),
            (asked_ms, published_ms) => asked_ms.or(published_ms)?,
        };
        Some(asked_ms.max(self.heard_ms))
    }

    async fn keep_alive(&mut self) -> Result<(), String> {
        let now_ms = self.shared.board.uptime_ms();
        if let Some(since_ms) = self.silent_since_ms() {
            let answer_ms = self.shared.timing.answer_ms;
            if now_ms >= since_ms.saturating_add(answer_ms) {
                return Err("the broker has gone silent".into());
            }
        } else if now_ms >= self.spoke_ms.saturating_add(self.keep_alive_ms / 2) {
            let ping = self.client.ping();
            within(&self.shared.board, self.shared.timing.answer_ms, ping)
                .await
                .ok_or("the broker takes nothing any more")?
                .map_err(|error| words(&error))?;
            self.spoke_ms = now_ms;
            self.asked_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Sends what waits, as far as the window goes.
    async fn send_readings(&mut self) -> Result<(), String> {
        let shared = self.shared;
        loop {
            let most = usize::from(self.client.server_config().receive_maximum.get());
            if self.sent.len() >= most.min(IN_FLIGHT) {
                return Ok(());
            }
            let (entry, time_ms) = {
                let mut queue = shared.queue.lock().await;
                // What was dropped meanwhile is no longer sent.
                self.next = self.next.max(queue.first());
                let Some(entry) = queue.get(self.next).await else {
                    return Ok(());
                };
                let clock = shared.clock.get();
                let time_ms = clock.taken_at(&entry, shared.boot, queue.boots());
                (entry, time_ms)
            };
            let topic = vigie_wire::topic::reading(&entry.sensor);
            let payload = entry.payload(time_ms, &shared.names);
            let number = self.next;
            self.publish(&topic, &payload, false, Some(number)).await?;
            self.next += 1;
        }
    }

    async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
        number: Option<u64>,
    ) -> Result<(), String> {
        let topic = topic_name(topic).ok_or("a sensor id that is no topic")?;
        let mut options = PublicationOptions::new(TopicReference::Name(topic)).at_least_once();
        if retain && self.client.server_config().retain_supported {
            options = options.retain();
        }
        let owed_ms = self.shared.timing.answer_ms;
        let owed_ms = self.shared.board.uptime_ms().saturating_add(owed_ms);
        self.shared.due.uplink_at(owed_ms);
        let publish = self.client.publish(&options, payload.into());
        let packet = within(&self.shared.board, self.shared.timing.answer_ms, publish)
            .await
            .ok_or("the broker takes nothing any more")?
            .map_err(|error| words(&error))?;
        self.spoke_ms = self.shared.board.uptime_ms();
        if let Some(packet) = packet {
            self.sent.push_back(Sent {
                packet,
                number,
                at_ms: self.spoke_ms,
                acknowledged: false,
            });
        }
        Ok(())
    }

    async fn take(&mut self, answer: Answer) -> Result<(), String> {
        match answer {
            Answer::Acknowledged(packet) => {
                let waiting = self.sent.iter_mut().find(|sent| sent.packet == packet);
                if let Some(sent) = waiting {
                    sent.acknowledged = true;
                }
                self.remove_acknowledged().await;
            }
            Answer::Rejected(packet, reason, text) => {
                let refused = self.sent.iter().find(|sent| sent.packet == packet);
                let is_status = refused.is_some_and(|sent| sent.number.is_none());
                let why = format!("{}{text}", reason_words(reason));
                if is_status {
                    self.shared
                        .say(&format!("the broker does not take the status: {why}"));
                } else if reason == ReasonCode::PayloadFormatInvalid {
                    // It will never take this one; those behind it have a right to go on.
                    self.shared
                        .say(&format!("the broker refused a reading: {why}"));
                    self.shared.counters.add_refused();
                } else {
                    return Err(format!("the broker refused a reading: {why}"));
                }
                if let Some(sent) = self.sent.iter_mut().find(|sent| sent.packet == packet) {
                    sent.acknowledged = true;
                }
                self.remove_acknowledged().await;
            }
            Answer::Pong => self.asked_ms = None,
            Answer::Other => {}
        }
        Ok(())
    }

    /// Takes out of the queue what is acknowledged with all before it.
    async fn remove_acknowledged(&mut self) {
        while self.sent.front().is_some_and(|sent| sent.acknowledged) {
            let Some(sent) = self.sent.pop_front() else {
                return;
            };
            if let Some(number) = sent.number {
                let mut queue = self.shared.queue.lock().await;
                self.shared.counters.add_acknowledged();
                self.shared.board.acknowledged();
                // It may have been dropped for want of room meanwhile.
                if queue.first() == number {
                    queue.pop().await;
                }
            }
        }
    }
}

/// What an event of the MQTT layer is to us, freed from its lifetime.
enum Answer {
    Acknowledged(PacketIdentifier),
    Rejected(PacketIdentifier, ReasonCode, String),
    Pong,
    Other,
}

impl Answer {
    fn of<const I: usize, const P: usize>(event: &Event<'_, I, P>) -> Self {
        match event {
            Event::PublishAcknowledged(puback) => Self::Acknowledged(puback.packet_identifier),
            Event::PublishRejected(rejected) => {
                let text = rejected.reason_string.as_ref();
                let text = text.map_or_else(String::new, |text| {
                    [" (", &quoted(text.as_str()), ")"].concat()
                });
                Self::Rejected(rejected.packet_identifier, rejected.reason_code, text)
            }
            Event::Pingresp => Self::Pong,
            _ => Self::Other,
        }
    }
}
