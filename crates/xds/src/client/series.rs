//! Which series of metrics the published configuration counts in.

use std::collections::HashSet;
use std::sync::Arc;

use engine::SeriesId;
use engine::route::RouteTable;
use engine::snapshot::{Destination, Live, Resolution, Slot, TcpRule};

/// The series of `live` and of everything that `slots` have found.
pub(super) fn in_use(live: &Live, slots: &[Arc<Slot>]) -> HashSet<SeriesId> {
    let mut used = HashSet::new();
    if let Some(inbound) = &*live.inbound.load() {
        used.insert(inbound.series);
        used.extend(inbound.ports.iter().map(|port| port.series));
    }
    if let Some(gateway) = &*live.gateway.load() {
        for listener in &gateway.listeners {
            used.insert(listener.series);
            add(&mut used, listener.http.as_ref(), listener.tcp.as_ref());
        }
    }
    for slot in slots {
        if let Resolution::Found(destination) = &*slot.peek() {
            add_destination(&mut used, destination);
        }
    }
    used
}

fn add_destination(used: &mut HashSet<SeriesId>, destination: &Destination) {
    for port in &destination.ports {
        used.insert(port.implicit.series);
        add(used, port.http.as_ref(), Some(&port.tcp));
    }
}

fn add(used: &mut HashSet<SeriesId>, http: Option<&RouteTable>, tcp: Option<&Arc<TcpRule>>) {
    used.extend(http.into_iter().flat_map(RouteTable::all).map(|rule| rule.series));
    used.extend(tcp.map(|rule| rule.series));
}
