//! Authorization policies. One that cannot be compiled denies its targets.

use std::net::IpAddr;

use engine::authorize::{Action, Authorizer, Network, Pattern, Policy, Rule};
use proto::mesh::{AuthorizationAction, AuthorizationRule, AuthorizationRules};

use super::problem::{self, Problem, Result, Within};
use super::resources::Resources;
use super::{policy::Rules, route};

/// One policy, compiled. `name` is the resource's, `Kind/namespace/name`.
pub(crate) fn policy(name: &str, rules: &AuthorizationRules) -> Result<Policy> {
    let action = match AuthorizationAction::try_from(rules.action) {
        Ok(AuthorizationAction::AuthorizationAllow) => Action::Allow,
        Ok(AuthorizationAction::AuthorizationDeny) => Action::Deny,
        Ok(AuthorizationAction::AuthorizationAudit) => Action::Audit,
        Err(_) => {
            return Problem::new("action", format!("this version knows no action of number {}", rules.action));
        }
    };
    let compiled = rules.rules.iter().enumerate();
    Ok(Policy {
        name: short(name),
        action,
        rules: compiled.map(|(i, one)| rule(one).within(|| format!("rules[{i}]"))).collect::<Result<_>>()?,
        unusable: !rules.unusable.is_empty(),
    })
}

/// What stands for a policy that cannot be used.
fn unusable(name: &str) -> Policy {
    Policy { name: short(name), action: Action::Deny, rules: Vec::new(), unusable: true }
}

fn short(name: &str) -> Box<str> {
    name.split_once('/').map_or(name, |(_, rest)| rest).into()
}

/// The policies `names`, in order of evaluation: deny, allow, audit; by name within. One that is not held was refused.
pub(crate) fn authorizer(resources: &Resources, names: &[String]) -> Authorizer {
    let one = |name: &String| match resources.policy(name).map(|policy| &policy.rules) {
        Some(Rules::Authorization(rules)) => Some(policy(name, rules).unwrap_or_else(|_| unusable(name))),
        Some(Rules::Traffic(_)) => None,
        None => Some(unusable(name)),
    };
    let mut policies: Vec<Policy> = names.iter().filter_map(one).collect();
    let rank = |policy: &Policy| match (policy.unusable, policy.action) {
        (true, _) | (_, Action::Deny) => 0,
        (_, Action::Allow) => 1,
        (_, Action::Audit) => 2,
    };
    policies.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
    Authorizer { policies }
}

fn rule(rule: &AuthorizationRule) -> Result<Rule> {
    let mut networks = Vec::new();
    for (i, text) in rule.addresses.iter().enumerate() {
        networks.push(network(text).within(|| format!("addresses[{i}]"))?);
    }
    let mut ports = Vec::new();
    for (i, port) in rule.ports.iter().enumerate() {
        ports.push(problem::port(&format!("ports[{i}]"), *port)?);
    }
    for (i, method) in rule.methods.iter().enumerate() {
        problem::token(&format!("methods[{i}]"), method)?;
    }
    for (i, namespace) in rule.namespaces.iter().enumerate() {
        if namespace.is_empty() || namespace.contains('*') {
            return Problem::new(
                format!("namespaces[{i}]"),
                format!("`{}` is not a namespace", namespace.escape_debug()),
            );
        }
    }
    Ok(Rule {
        identities: patterns("identities", &rule.identities)?,
        namespaces: rule.namespaces.iter().map(|text| text.as_str().into()).collect(),
        networks,
        ports,
        methods: rule.methods.iter().map(|text| text.as_str().into()).collect(),
        paths: patterns("paths", &rule.paths)?,
        headers: route::values(&rule.headers, true).within(|| "headers".into())?,
    })
}

fn patterns(field: &str, list: &[String]) -> Result<Vec<Pattern>> {
    let one = |(i, text): (usize, &String)| {
        let pattern = Pattern::parse(text);
        let rest = match &pattern {
            Pattern::Exact(rest) | Pattern::Prefix(rest) | Pattern::Suffix(rest) => &**rest,
            Pattern::Any => return Ok(pattern),
        };
        if rest.is_empty() || rest.contains('*') {
            let reason = format!("`{}`: a star may stand at the start or at the end, once", text.escape_debug());
            return Problem::new(format!("{field}[{i}]"), reason);
        }
        Ok(pattern)
    };
    list.iter().enumerate().map(one).collect()
}

/// An address, or a network in CIDR notation.
fn network(text: &str) -> Result<Network> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return Problem::new("", format!("`{}` is not an IP address or network", text.escape_debug()));
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.map_or(Ok(most), str::parse::<u8>) {
        Ok(bits) if bits <= most => Ok(Network { address, bits }),
        _ => Problem::new("", format!("`{}`: 0 to {most} leading bits are possible", text.escape_debug())),
    }
}
