//! The instances that registered over the session stream: leased records.
//!
//! A record lives while its stream is open and for a grace after that, so that a sidecar that reconnects loses nothing. It
//! ends at once when its sidecar said that it is draining and then closed its stream.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use net::spiffe;
use proto::mesh;
use tokio::time::Instant;

use crate::translate::{Member, MemberPort};

/// Records, over all namespaces.
const INSTANCES: usize = 20_000;
/// Labels, services and ports of one instance. Kubernetes knows no limit; nobody has more.
const LIST: usize = 64;
/// Longest text in a registration: a label's name with its prefix (253 + 1 + 63).
const TEXT: usize = 317;
/// Largest weight, as for a Workload.
const WEIGHT: u32 = 1_000_000;

/// One stream of one proxy, for as long as the control plane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamId(u64);

#[cfg(test)]
impl StreamId {
    pub(crate) fn for_test(id: u64) -> StreamId {
        StreamId(id)
    }
}

/// Every record.
pub(crate) struct Instances {
    grace: Duration,
    records: BTreeMap<String, Record>,
    next: u64,
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) member: Member,
    pub(crate) identity: spiffe::Id,
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) state: mesh::State,
    pub(crate) reason: String,
    pub(crate) not_before_unix_ms: i64,
    pub(crate) not_after_unix_ms: i64,
    /// When it was connected, or lost.
    pub(crate) since: SystemTime,
    stream: StreamId,
    /// When the record ends, if its stream has.
    ends: Option<Instant>,
}

impl Record {
    /// Whether its stream is open.
    pub(crate) fn connected(&self) -> bool {
        self.ends.is_none()
    }
}

/// Why an instance is not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotAllowed(String),
    #[error("{INSTANCES} instances are registered, and no more are allowed")]
    Full,
}

impl Instances {
    pub(crate) fn new(grace: Duration) -> Instances {
        Instances { grace, records: BTreeMap::new(), next: 1 }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.records.iter()
    }

    pub(crate) fn get(&self, workload: &str) -> Option<&Record> {
        self.records.get(workload)
    }

    /// Registers an instance whose sidecar proved `identity`. A record of the same name and identity is replaced: the proxy
    /// has reconnected, or was replaced by a new process.
    pub(crate) fn register(
        &mut self,
        registration: &mesh::Registration,
        identity: &spiffe::Id,
        version: &str,
        now: SystemTime,
    ) -> Result<StreamId, Refused> {
        let member = member(registration, identity)?;
        let name = member.path();
        match self.records.get(&name) {
            Some(held) if held.identity != *identity => {
                return Err(Refused::NotAllowed(format!(
                    "{name} is registered by {}; wait until that one has ended, or use another name",
                    held.identity
                )));
            }
            None if self.records.len() >= INSTANCES => return Err(Refused::Full),
            _ => {}
        }
        let stream = StreamId(self.next);
        self.next += 1;
        let held = self.records.get(&name);
        let record = Record {
            state: registration.state(),
            reason: String::new(),
            identity: identity.clone(),
            version: version.to_owned(),
            node: registration.node.clone(),
            not_before_unix_ms: held.map_or(0, |h| h.not_before_unix_ms),
            not_after_unix_ms: held.map_or(0, |h| h.not_after_unix_ms),
            since: now,
            stream,
            ends: None,
            member,
        };
        self.records.insert(name, record);
        Ok(stream)
    }

    /// The record of `workload`, if `stream` is still the one that it belongs to.
    fn of(&mut self, workload: &str, stream: StreamId) -> Option<&mut Record> {
        self.records.get_mut(workload).filter(|r| r.stream == stream)
    }

    /// Notes a state; true when that changes what others see.
    pub(crate) fn state(&mut self, workload: &str, stream: StreamId, change: &mesh::StateChange) -> bool {
        let Some(record) = self.of(workload, stream) else { return false };
        record.state = change.state();
        record.reason = change.reason.chars().take(TEXT).collect();
        let health = health(record.state);
        std::mem::replace(&mut record.member.health, health) != health
    }

    /// Notes when the certificate is valid.
    pub(crate) fn certificate(&mut self, workload: &str, stream: StreamId, not_before: i64, not_after: i64) {
        if let Some(record) = self.of(workload, stream) {
            record.not_before_unix_ms = not_before;
            record.not_after_unix_ms = not_after;
        }
    }

    /// The stream has ended. `clean`: its sidecar closed it, so that after draining the record ends at once; true then.
    pub(crate) fn ended(
        &mut self,
        workload: &str,
        stream: StreamId,
        clean: bool,
        now: Instant,
        wall: SystemTime,
    ) -> bool {
        let grace = self.grace;
        let Some(record) = self.of(workload, stream) else { return false };
        if clean && record.state == mesh::State::Draining {
            self.records.remove(workload);
            return true;
        }
        record.ends = Some(now + grace);
        record.since = wall;
        false
    }

    /// Ends the records whose grace is over, and returns their names.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let over: Vec<String> = self
            .records
            .iter()
            .filter(|(_, record)| record.ends.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &over {
            self.records.remove(name);
        }
        over
    }

    /// When [`Instances::expire`] has something to do next.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.records.values().filter_map(|r| r.ends).min()
    }
}

fn health(state: mesh::State) -> mesh::Health {
    match state {
        mesh::State::Ready => mesh::Health::Ready,
        mesh::State::Starting | mesh::State::NotReady => mesh::Health::NotReady,
        mesh::State::Draining => mesh::Health::Draining,
    }
}

/// Splits `namespace/name` and checks that both are names: a DNS label and a DNS subdomain (RFC 1123).
pub(crate) fn split(workload: &str) -> Option<(&str, &str)> {
    let (namespace, name) = workload.split_once('/')?;
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = |text: &str, longest: usize, also: &[u8]| {
        let bytes = text.as_bytes();
        bytes.len() <= longest
            && bytes.first().is_some_and(|c| word(*c))
            && bytes.last().is_some_and(|c| word(*c))
            && bytes.iter().all(|c| word(*c) || also.contains(c))
    };
    (ok(namespace, 63, b"-") && ok(name, 253, b"-.")).then_some((namespace, name))
}

/// Checks a registration against the identity that its sidecar proved.
fn member(registration: &mesh::Registration, identity: &spiffe::Id) -> Result<Member, Refused> {
    let bad = |text: String| Refused::BadRequest(text);
    let (namespace, name) = split(&registration.workload)
        .ok_or_else(|| bad("the workload must be namespace/name, both lower-case DNS names".to_owned()))?;
    if namespace != identity.namespace() || registration.service_account != identity.service_account() {
        return Err(Refused::NotAllowed(format!(
            "{identity} may not register {} as service account {:?}",
            registration.workload, registration.service_account
        )));
    }
    for (what, count) in [
        ("labels", registration.labels.len()),
        ("services", registration.services.len()),
        ("ports", registration.ports.len()),
    ] {
        if count > LIST {
            return Err(bad(format!("{count} {what}; {LIST} are allowed")));
        }
    }
    let texts = [&registration.region, &registration.zone, &registration.node];
    let named =
        registration.labels.iter().flat_map(|l| [&l.name, &l.value]).chain(registration.ports.iter().map(|p| &p.name));
    if texts.into_iter().chain(named).any(|text| text.len() > TEXT) {
        return Err(bad(format!("a text is longer than {TEXT} bytes")));
    }
    let endpoint = !(registration.labels.is_empty() && registration.services.is_empty());
    let address: IpAddr = match registration.address.as_str() {
        "" if !endpoint => Ipv4Addr::UNSPECIFIED.into(),
        text => text.parse().map_err(|_| bad(format!("the address {text:?} is not an IP address")))?,
    };
    if endpoint && (address.is_unspecified() || address.is_multicast()) {
        return Err(bad(format!("nobody can be reached at {address}")));
    }
    let dial = match registration.dial.as_str() {
        "" => None,
        dial => Some(
            dial.parse::<SocketAddr>()
                .ok()
                .filter(|d| d.port() != 0 && !d.ip().is_unspecified())
                .ok_or_else(|| bad(format!("the dial address {dial:?} is not ip:port")))?,
        ),
    };
    if registration.weight > WEIGHT {
        return Err(bad(format!("the weight is {}; {WEIGHT} is the most", registration.weight)));
    }
    if endpoint && dial.is_none() {
        return Err(bad("an instance with labels or services must say where its sidecar is dialled".to_owned()));
    }
    let labels = registration.labels.iter().map(|l| (l.name.clone(), l.value.clone())).collect();
    let standing = api::Standing::of_labels(&labels);
    let or = |told: &String, label: String| if told.is_empty() { label } else { told.clone() };
    Ok(Member {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        service_account: registration.service_account.clone(),
        address,
        dial,
        endpoint,
        labels,
        services: services(registration, namespace)?,
        ports: ports(registration)?,
        weight: if registration.weight == 0 { standing.weight } else { registration.weight },
        region: or(&registration.region, standing.region),
        zone: or(&registration.zone, standing.zone),
        priority: standing.priority,
        health: health(registration.state()),
    })
}

/// The services that it names itself, which must be of its own namespace: joining a service is a matter of that namespace.
fn services(registration: &mesh::Registration, namespace: &str) -> Result<BTreeSet<String>, Refused> {
    registration
        .services
        .iter()
        .map(|service| match split(service) {
            Some((of, name)) if of == namespace => Ok(name.to_owned()),
            Some(_) => {
                Err(Refused::NotAllowed(format!("an instance of {namespace} may not be an endpoint of {service}")))
            }
            None => Err(Refused::BadRequest(format!("the service {service:?} is not namespace/name"))),
        })
        .collect()
}

fn ports(registration: &mesh::Registration) -> Result<Vec<MemberPort>, Refused> {
    let mut ports: Vec<MemberPort> = registration
        .ports
        .iter()
        .map(|p| match u16::try_from(p.port) {
            Ok(port) if port != 0 => Ok(MemberPort { name: p.name.clone(), port, protocol: p.protocol() }),
            _ => Err(Refused::BadRequest(format!("{} is not a port", p.port))),
        })
        .collect::<Result<_, _>>()?;
    ports.sort_by(|a, b| (a.port, &a.name).cmp(&(b.port, &b.name)));
    Ok(ports)
}

#[cfg(test)]
pub(crate) mod tests;
