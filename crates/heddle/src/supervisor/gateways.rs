//! Which gateways run: as the manifests say, and again where one could not be started.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Gateway, Object, Spec};
use tokio::time::Instant;

use super::Supervisor;
use super::backoff::Backoff;
use super::gateway::{GatewayProxy, Places, declares};

/// Namespace and name.
pub(super) type Key = (String, String);

/// A gateway that could not be started.
#[derive(Debug)]
pub(super) struct Waiting {
    wanted: Gateway,
    backoff: Backoff,
    /// When it is tried again.
    at: Instant,
    /// Why it could not.
    pub(super) why: String,
}

impl Supervisor {
    /// Starts, restarts and ends gateways. Only a change of ports restarts one.
    pub(super) async fn take_gateways(&mut self, objects: &[Object]) {
        let key = |object: &Object| (object.meta.namespace.to_string(), object.meta.name.to_string());
        let wanted: BTreeMap<_, _> = objects
            .iter()
            .filter_map(
                |object| if let Spec::Gateway(wanted) = &object.spec { Some((key(object), wanted)) } else { None },
            )
            .collect();
        let fits = |key: &_, gateway: &GatewayProxy| wanted.get(key).is_some_and(|wanted| gateway.fits(wanted));
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.gateways).into_iter().partition(|(key, gateway)| fits(key, gateway));
        self.gateways = stay;
        // An edit is a new beginning.
        self.waiting.clear();
        // All that end do so first: what starts may want their ports, under another name too.
        let mut places = BTreeMap::new();
        for (key, gateway) in go {
            let mut place = gateway.end(Duration::from_secs(1)).await;
            if let Some(wanted) = wanted.get(&key) {
                // What it gives up another one may want.
                place.retain(|declared, _| declares(wanted, *declared));
                places.insert(key, place);
            }
        }
        for (key, wanted) in wanted {
            if !self.gateways.contains_key(&key) {
                let kept = places.remove(&key).unwrap_or_default();
                self.start_gateway(key, wanted.clone(), kept, Backoff::new());
            }
        }
    }

    /// Resolves when a gateway that could not be started is to be tried again.
    pub(super) fn next_try(&self) -> impl Future<Output = ()> + use<> {
        let next = self.waiting.values().map(|waiting| waiting.at).min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Tries those whose time has come.
    pub(super) fn try_again(&mut self) {
        let now = Instant::now();
        let due: Vec<Key> = self.waiting.iter().filter(|(_, w)| w.at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            if let Some(Waiting { wanted, backoff, .. }) = self.waiting.remove(&key) {
                self.start_gateway(key, wanted, Places::new(), backoff);
            }
        }
    }

    fn start_gateway(&mut self, key: Key, wanted: Gateway, kept: Places, mut backoff: Backoff) {
        backoff.started();
        let ip = self.address();
        match GatewayProxy::start(&self.mesh, &key.0, &key.1, &wanted, ip, kept) {
            Ok(gateway) => {
                // The summary of a mesh that comes up says where its gateways are.
                if self.announced {
                    for bound in &gateway.listeners {
                        self.mesh.reporter.note(format_args!("gateway {} listens on {}", key.1, bound.url()));
                    }
                }
                let (mut state, changed) = (gateway.state(), self.changed.0.clone());
                tokio::spawn(async move { while state.changed().await.is_ok() && changed.send(()).is_ok() {} });
                self.gateways.insert(key, gateway);
            }
            Err(error) => {
                let wait = backoff.died();
                let why = format!("{error:#}");
                let name = &key.1;
                self.mesh.reporter.problem(format_args!("gateway {name} cannot run: {why}; tried again in {wait:?}"));
                self.waiting.insert(key, Waiting { wanted, backoff, at: Instant::now() + wait, why });
            }
        }
    }
}
