//! What each kind takes, and what it says of what it does not take.

use crate::kinds::authorization_policy;
use crate::object::{Kind, Spec};
use crate::parse::tests::{document, expect, good, said};
use crate::{BackendRef, EnvValue, FieldRef, PathMatch, PortRef, ProbeAction, RetryCondition, TargetKind, ValueRule};

const POD: &str = "selector: {}, template: {spec: {containers: [{name: c";

/// A Deployment's `spec` with `more` in its container.
fn container(more: &str) -> String {
    format!("{{{POD}, {more}}}]}}}}}}")
}

#[test]
fn services() {
    let Spec::Service(service) = good(&document(
        "Service",
        "{type: NodePort, selector: {app: a}, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], sessionAffinity: None, ports: \
         [{name: grpc-x, port: 1, targetPort: web}, {name: b, port: 2, appProtocol: redis, nodePort: 30000}]}",
    )) else {
        panic!()
    };
    assert_eq!(service.cluster_ip, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(service.ports[0].target_port, PortRef::Name("web".to_owned()));
    assert_eq!(service.ports[0].protocol, crate::AppProtocol::Http2);
    assert_eq!(
        (&service.ports[1].target_port, service.ports[1].protocol),
        (&PortRef::Number(2), crate::AppProtocol::Tcp)
    );
    let Spec::Service(headless) = good(&document("Service", "{clusterIP: None}")) else { panic!() };
    assert!(headless.headless && headless.ports.is_empty());
    expect(&[
        ("Service", "{}", "spec: the field ports is missing | only a headless…"),
        ("Service", "[]", "spec: expected a mapping, found a list"),
        ("Service", "{ports: {}}", "spec.ports: expected a list, found a mapping…"),
        ("Service", "{ports: [{port: 0}]}", "spec.ports[0].port: 0 is out of range: 1 to 65535 is allowed"),
        ("Service", "{ports: [{port: 65536}]}", "spec.ports[0].port: 65536 is out of range: 1 to 65535 is allowed"),
        (
            "Service",
            "{ports: [{port: '1'}]}",
            "spec.ports[0].port: expected a whole number, found the text \"1\" | write it without quotes: 1",
        ),
        (
            "Service",
            "{ports: [{port: 1.5}]}",
            "spec.ports[0].port: expected a whole number from 1 to 65535, found the number 1.5",
        ),
        ("Service", "{ports: [{}]}", "spec.ports[0]: the field port is missing"),
        ("Service", "{ports: [{port: 1, targetPort: a_b}]}", "spec.ports[0].targetPort: \"a_b\" must be…"),
        (
            "Service",
            "{ports: [{port: 1, targetprt: 2}]}",
            "spec.ports[0].targetprt: there is no field \"targetprt\" here | did you mean \"targetPort\"?",
        ),
        (
            "Service",
            "{ports: [{name: a, port: 1}, {port: 2}]}",
            "spec.ports[1]: the field name is missing | a service with several ports must name each",
        ),
        ("Service", "{ports: [{name: a, port: 1}, {name: b, port: 1}]}", "spec.ports: two ports have the number 1"),
        ("Service", "{ports: [{name: a, port: 1}, {name: a, port: 2}]}", "spec.ports: two ports have the name \"a\""),
        (
            "Service",
            "{ports: [{port: 1, protocol: UDP}]}",
            "notice spec.ports[0].protocol: this port is skipped: the mesh carries TCP alone",
        ),
        (
            "Service",
            "{ports: [{port: 1}], type: ExternalName}",
            "spec.type: ExternalName is not implemented yet | give the service a selector, or a Workload for the host",
        ),
        ("Service", "{ports: [{port: 1}], clusterIP: x}", "spec.clusterIP: \"x\" is not an IP address"),
        (
            "Service",
            "{ports: [{port: 1}], selector: {a: 1}}",
            "spec.selector.a: expected a text, found the number 1 | write it in quotes: \"1\"",
        ),
        (
            "Service",
            "{ports: [{port: 1}], selector: {a: 'b c'}}",
            "spec.selector.a: the label's value \"b c\" must be…",
        ),
    ]);
}

#[test]
fn what_runs() {
    let Spec::Deployment(deployment) = good(&document(
        "Deployment",
        "{replicas: 3, selector: {matchLabels: {app: a}}, strategy: {}, template: {metadata: {labels: {app: a, b: c}, annotations: {heddle.dev/command: 'sleep 1 | cat'}}, \
         spec: {serviceAccountName: sa, terminationGracePeriodSeconds: 5, volumes: [1], containers: [{name: c, image: i, command: [a, b], args: ['1'], workingDir: w, \
         env: [{name: A, value: b}, {name: B, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: C, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['x/y']\"}}}, {name: D}], \
         ports: [{name: http, containerPort: 80, hostPort: 80}, {containerPort: 90, protocol: TCP}], \
         readinessProbe: {httpGet: {port: http, httpHeaders: [{name: Host, value: a}]}, periodSeconds: 2, successThreshold: 2}, livenessProbe: {exec: {command: ['true']}}, \
         startupProbe: {grpc: {port: 9, service: s}}}]}}}",
    )) else {
        panic!()
    };
    let template = &deployment.template;
    assert_eq!((deployment.replicas, template.service_account.as_str()), (3, "sa"));
    assert_eq!(template.local_command.as_deref().unwrap(), ["/bin/sh", "-c", "sleep 1 | cat"]);
    let container = &template.container;
    assert_eq!(
        (container.command.as_slice(), container.args.as_slice()),
        (&["a".to_owned(), "b".to_owned()][..], &["1".to_owned()][..])
    );
    let values: Vec<_> = container.env.iter().map(|e| e.value.clone()).collect();
    assert_eq!(values[1], EnvValue::Field(FieldRef::PodIp));
    assert_eq!(values[2], EnvValue::Field(FieldRef::Label("x/y".to_owned())));
    assert_eq!(values[3], EnvValue::Text(String::new()));
    assert_eq!(container.ports[0].protocol, crate::AppProtocol::Http);
    let readiness = container.readiness.as_ref().unwrap();
    let ProbeAction::HttpGet { path, port, headers, .. } = &readiness.action else { panic!() };
    assert_eq!((path.as_str(), port, headers[0].0.as_str()), ("/", &PortRef::Name("http".to_owned()), "Host"));
    assert_eq!(
        (
            readiness.period.as_secs(),
            readiness.timeout.as_secs(),
            readiness.success_threshold,
            readiness.failure_threshold
        ),
        (2, 1, 2, 3)
    );
    let job = "{backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: c}]}}}";
    let Spec::Job(job) = good(&document("Job", job)) else { panic!() };
    assert_eq!((job.completions, job.parallelism, job.backoff_limit), (1, 1, 0));
    let set = format!("{{serviceName: s, {POD}}}]}}}}}}");
    let Spec::StatefulSet(set) = good(&document("StatefulSet", &set)) else { panic!() };
    assert_eq!((set.service_name.as_str(), set.replicas), ("s", 1));
}

#[test]
fn what_cannot_run() {
    let pod = |more: &str| format!("{{selector: {{}}, template: {{spec: {{containers: [{{name: c}}]{more}}}}}}}");
    let note = |value: &str| {
        format!(
            "{{selector: {{}}, template: {{metadata: {{annotations: {{heddle.dev/command: {value}}}}}, spec: {{containers: [{{name: c}}]}}}}}}"
        )
    };
    let job = |policy: &str| format!("{{template: {{spec: {{containers: [{{name: c}}]{policy}}}}}}}");
    expect(&[
        ("Deployment", "{selector: {}}", "spec: the field template is missing"),
        (
            "Deployment",
            "{selector: {}, template: {spec: {containers: []}}}",
            "spec.template.spec.containers: needs a container",
        ),
        (
            "Deployment",
            "{selector: {}, template: {spec: {containers: [{name: c}, {name: d}]}}}",
            "notice spec.template.spec.containers[1]: only the first container…",
        ),
        (
            "Deployment",
            &pod(", initContainers: [{}]"),
            "notice spec.template.spec.initContainers: init containers are not run on one machine",
        ),
        (
            "Deployment",
            &pod(", serviceAcountName: a"),
            "spec.template.spec.serviceAcountName: there is no field \"serviceAcountName\" here | did you mean \"serviceAccountName\"?",
        ),
        (
            "Deployment",
            &pod(", restartPolicy: Never"),
            "spec.template.spec.restartPolicy: must be Always; a Job can be OnFailure or Never",
        ),
        (
            "Deployment",
            "{selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c}]}}}",
            "spec.selector.matchLabels: the template has no label a: b…",
        ),
        (
            "Deployment",
            &format!("{{replicas: -1, {POD}}}]}}}}}}"),
            "spec.replicas: -1 is out of range: 0 to 10000 is allowed",
        ),
        (
            "Deployment",
            &note("'[a, [b]]'"),
            "spec.template.metadata.annotations.heddle.dev/command: is not a list of texts…",
        ),
        ("Deployment", &note("'  '"), "spec.template.metadata.annotations.heddle.dev/command: is empty"),
        ("Job", &job(""), "spec.template.spec: the field restartPolicy is missing | a Job must say OnFailure or Never"),
        (
            "Job",
            &job(", restartPolicy: Always"),
            "spec.template.spec.restartPolicy: a Job cannot restart Always; OnFailure or Never is allowed",
        ),
    ]);
}

#[test]
fn containers_that_cannot_run() {
    expect(&[
        (
            "Deployment",
            &container("command: sleep"),
            "spec.template.spec.containers[0].command: expected a list, found the text \"sleep\" | write it as…",
        ),
        (
            "Deployment",
            &container("args: [1]"),
            "spec.template.spec.containers[0].args[0]: expected a text, found the number 1 | write it in quotes: \"1\"",
        ),
        (
            "Deployment",
            &container("env: [{name: A, value: true}]"),
            "spec.template.spec.containers[0].env[0].value: expected a text, found the truth value true…",
        ),
        (
            "Deployment",
            &container("env: [{name: A, valueFrom: {secretKeyRef: {}}}]"),
            "warning spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef: not read on one machine…",
        ),
        (
            "Deployment",
            &container("env: [{name: A, valueFrom: {fieldRef: {fieldPath: a.b}}}]"),
            "spec.template.spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"a.b\" is not a field…",
        ),
        (
            "Deployment",
            &container("envFrom: [{}]"),
            "warning spec.template.spec.containers[0].envFrom: not read on one machine…",
        ),
        (
            "Deployment",
            &container("readinessProbe: {}"),
            "spec.template.spec.containers[0].readinessProbe: needs one of: httpGet, tcpSocket, exec, grpc",
        ),
        (
            "Deployment",
            &container("livenessProbe: {successThreshold: 2, tcpSocket: {port: 1}}"),
            "spec.template.spec.containers[0].livenessProbe.successThreshold: 2 is out of range: 1 to 1 is allowed",
        ),
        (
            "Deployment",
            &container("readinessProbe: {httpGet: {path: /}}"),
            "spec.template.spec.containers[0].readinessProbe.httpGet: the field port is missing",
        ),
    ]);
}

#[test]
fn gateways() {
    let listener = |more: &str| format!("{{gatewayClassName: c, listeners: [{{name: a, port: 80, {more}}}]}}");
    let two = |more: &str| {
        format!("{{gatewayClassName: c, listeners: [{{name: a, port: 80, protocol: HTTP}}, {{port: 80, {more}}}]}}")
    };
    let spec = good(&document(
        "Gateway",
        &listener(
            "protocol: HTTP, hostname: '*.a.b', allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}",
        ),
    ));
    let Spec::Gateway(gateway) = spec else { panic!() };
    let first = &gateway.listeners[0];
    assert_eq!(
        (first.allowed_namespaces, first.allowed_kinds.as_slice()),
        (crate::AllowedNamespaces::All, &[Kind::GrpcRoute][..])
    );
    expect(&[
        (
            "Gateway",
            "{listeners: [{name: a, port: 80, protocol: HTTP}]}",
            "spec: the field gatewayClassName is missing",
        ),
        ("Gateway", "{gatewayClassName: c, listeners: []}", "spec.listeners: needs at least one listener"),
        (
            "Gateway",
            &listener("protocol: HTTPS"),
            "spec.listeners[0].protocol: HTTPS listeners are not implemented yet | the protocols there are: HTTP, TCP",
        ),
        (
            "Gateway",
            &listener("protocol: http"),
            "spec.listeners[0].protocol: \"http\" is not one of: HTTP, TCP | did you mean \"HTTP\"?",
        ),
        (
            "Gateway",
            &listener("protocol: HTTP, tls: {}"),
            "spec.listeners[0].tls: not implemented yet | remove the field",
        ),
        (
            "Gateway",
            &listener("protocol: TCP, hostname: a.b"),
            "spec.listeners[0].hostname: a TCP listener cannot tell hosts apart",
        ),
        (
            "Gateway",
            &listener("protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}"),
            "spec.listeners[0].allowedRoutes.namespaces.from: not implemented yet | use Same or All",
        ),
        (
            "Gateway",
            &listener("protocol: TCP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}"),
            "spec.listeners[0].allowedRoutes.kinds[0].kind: \"HTTPRoute\" is not one of: TCPRoute…",
        ),
        (
            "Gateway",
            &two("name: a, protocol: HTTP, hostname: a.b"),
            "spec.listeners[1]: two listeners have the name \"a\"",
        ),
        (
            "Gateway",
            &two("name: b, protocol: HTTP"),
            "spec.listeners[1]: conflicts with the listener \"a\": same port 80",
        ),
        (
            "Gateway",
            &two("name: b, protocol: TCP"),
            "spec.listeners[1]: conflicts with the listener \"a\": same port 80",
        ),
        (
            "Gateway",
            "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}], infrastructure: {}}",
            "spec.infrastructure: not implemented yet | remove the field",
        ),
        (
            "Gateway",
            "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: [{type: Hostname, value: a.b}]}",
            "spec.addresses[0].type: only addresses of the type IPAddress are implemented | write the address itself",
        ),
        (
            "Gateway",
            "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: [{value: \"::\"}, {value: \"::\"}]}",
            "spec.addresses[1].value: :: is there already",
        ),
    ]);
}

/// A route's `spec` with one rule.
fn rule(rule: &str) -> String {
    format!("{{parentRefs: [{{name: g}}], rules: [{{{rule}}}]}}")
}

#[test]
fn http_routes() {
    let spec = rule(
        "matches: [{path: {value: /a}, method: GET, headers: [{name: X-A, value: b}], queryParams: [{name: Q, type: RegularExpression, value: 'c+'}]}, {}], \
         filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: A, value: b}]}}], timeouts: {request: 0s, backendRequest: 1s}, \
         backendRefs: [{name: b, port: 80, weight: 0, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X]}}]}, {group: '', kind: Service, namespace: n, name: c, port: 1}]",
    );
    let Spec::HttpRoute(route) = good(&document("HTTPRoute", &spec)) else { panic!() };
    let rule = &route.rules[0];
    assert_eq!(rule.matches[0].path, Some(PathMatch::Prefix("/a".to_owned())));
    assert_eq!((rule.matches[0].headers[0].name.as_str(), rule.matches[0].query[0].name.as_str()), ("x-a", "Q"));
    assert_eq!(rule.matches[0].query[0].value, ValueRule::Regex("c+".to_owned()));
    assert_eq!((rule.matches[1].path.as_ref(), rule.matches[1].method.as_ref()), (None, None));
    assert_eq!(rule.response_headers.add, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(rule.request_timeout, Some(std::time::Duration::ZERO));
    assert_eq!(
        (rule.backends[0].weight, rule.backends[0].request_headers.remove.as_slice()),
        (0, &["x".to_owned()][..])
    );
    let second = BackendRef {
        namespace: "n".to_owned(),
        name: "c".to_owned(),
        port: 1,
        weight: 1,
        request_headers: crate::HeaderEdits::default(),
    };
    assert_eq!(rule.backends[1], second);
    let Spec::HttpRoute(bare) = good(&document("HTTPRoute", "{parentRefs: [{name: g}]}")) else { panic!() };
    assert_eq!(bare.rules, [crate::HttpRule::default()]);
}

/// The one backend of most rules.
const TO: &str = "backendRefs: [{name: b, port: 80}]";

/// A field's path in the first rule, and what is said of it.
fn at(rest: &str) -> String {
    format!("spec.rules[0].{rest}")
}

#[test]
fn http_routes_that_cannot_be_used() {
    let with = |more: &str| rule(&format!("{TO}, {more}"));
    let backend = |backend: &str| rule(&format!("backendRefs: [{backend}]"));
    expect(&[
        ("HTTPRoute", "{}", "spec: the field parentRefs is missing"),
        ("HTTPRoute", "{parentRefs: []}", "spec.parentRefs: names nothing…"),
        ("HTTPRoute", "{parentRefs: [{name: a}, {name: a}]}", "spec.parentRefs: names a twice"),
        (
            "HTTPRoute",
            "{parentRefs: [{kind: Service, name: a}]}",
            "spec.parentRefs[0]: there is no kind Service in the group \"gateway.networking.k8s.io\" | write group: \"\"",
        ),
        (
            "HTTPRoute",
            "{parentRefs: [{group: '', name: a}]}",
            "spec.parentRefs[0].group: there is no kind Gateway in the group \"\"…",
        ),
        (
            "HTTPRoute",
            "{parentRefs: [{name: a}], hostnames: [1.2.3.4]}",
            "spec.hostnames[0]: \"1.2.3.4\" must be a host name, not an IP address",
        ),
        (
            "HTTPRoute",
            "{parentRefs: [{name: a}], hostname: a}",
            "spec.hostname: there is no field \"hostname\" here | did you mean \"hostnames\"?",
        ),
        ("HTTPRoute", &rule(""), "warning spec.rules[0]: the rule has no backendRefs and no redirect…"),
        ("HTTPRoute", &with("retry: {}"), &at("retry: not implemented yet | remove the field")),
        (
            "HTTPRoute",
            &with("sessionPersistence: {}"),
            &at("sessionPersistence: not implemented yet | remove the field"),
        ),
        (
            "HTTPRoute",
            &with("matches: [{path: {type: Prefix, value: /}}]"),
            &at(
                "matches[0].path.type: \"Prefix\" is not one of: Exact, PathPrefix, RegularExpression | did you mean \"PathPrefix\"?",
            ),
        ),
        ("HTTPRoute", &with("matches: [{path: {value: a}}]"), &at("matches[0].path.value: \"a\" must begin with `/`")),
        (
            "HTTPRoute",
            &with("matches: [{path: {type: RegularExpression}}]"),
            &at("matches[0].path: the field value is missing"),
        ),
        (
            "HTTPRoute",
            &with("matches: [{path: {type: RegularExpression, value: '('}}]"),
            &at("matches[0].path.value: \"(\" is not a regular expression: unclosed group"),
        ),
        ("HTTPRoute", &with("matches: [{method: get}]"), &at("matches[0].method: \"get\" is not one of…")),
        (
            "HTTPRoute",
            &with("matches: [{headers: [{name: A, value: b}, {name: a, value: c}]}]"),
            &at("matches[0].headers: names a twice…"),
        ),
        (
            "HTTPRoute",
            &with("matches: [{headers: [{name: 'a b', value: c}]}]"),
            &at("matches[0].headers[0].name: \"a b\" is not a header name…"),
        ),
        (
            "HTTPRoute",
            &with("timeouts: {request: 10}"),
            &at("timeouts.request: expected a length of time, found the number 10 | give it a unit: 10s or 10ms"),
        ),
        (
            "HTTPRoute",
            &with("timeouts: {request: 1s, backendRequest: 2s}"),
            &at("timeouts: backendRequest is longer than request"),
        ),
        ("HTTPRoute", &backend("{name: b}"), &at("backendRefs[0]: the field port is missing")),
        (
            "HTTPRoute",
            &backend("{name: b, port: 80, weight: 1000001}"),
            &at("backendRefs[0].weight: 1000001 is out of range: 0 to 1000000 is allowed"),
        ),
        ("HTTPRoute", &backend("{name: b, port: 80, kind: Bucket}"), &at("backendRefs[0].kind: not implemented yet…")),
        (
            "HTTPRoute",
            &backend("{name: b, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}"),
            &at("backendRefs[0].filters: only RequestHeaderModifier…"),
        ),
    ]);
    let twice = said(&document(
        "HTTPRoute",
        &format!("{{parentRefs: [{{name: g}}], rules: [{{name: r, {TO}}}, {{name: r, {TO}}}]}}"),
    ));
    assert_eq!(twice, ["spec.rules: two rules have the name \"r\""]);
    let many = format!("{{parentRefs: [{{name: g}}], rules: [{}]}}", format!("{{{TO}}},").repeat(17));
    assert_eq!(said(&document("HTTPRoute", &many)), ["spec.rules: has 17 items; at most 16 are allowed"]);
}

#[test]
fn filters_that_cannot_be_used() {
    let filter = |filter: &str| rule(&format!("{TO}, filters: [{filter}]"));
    let edit = |edit: &str| filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {edit}}}"));
    let redirect = |more: &str| rule(&format!("filters: [{{type: RequestRedirect, requestRedirect: {{{more}}}}}]"));
    expect(&[
        (
            "HTTPRoute",
            &filter("{type: RequestMirror, requestMirror: {}}"),
            &at("filters[0].type: not implemented yet | remove the filter"),
        ),
        (
            "HTTPRoute",
            &filter("{type: CORS, cors: {}}"),
            &at("filters[0].type: not implemented yet | remove the filter"),
        ),
        (
            "HTTPRoute",
            &filter("{type: URLRewrit, urlRewrite: {}}"),
            &at("filters[0].type: \"URLRewrit\" is not one of…"),
        ),
        ("HTTPRoute", &filter("{type: URLRewrite}"), &at("filters[0]: the field urlRewrite is missing")),
        (
            "HTTPRoute",
            &filter("{type: URLRewrite, urlRewrite: {}, cors: {}}"),
            &at("filters[0].cors: stands in a filter of type URLRewrite"),
        ),
        (
            "HTTPRoute",
            &filter("{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}"),
            &at("filters[1].type: a rule can have one URLRewrite alone"),
        ),
        (
            "HTTPRoute",
            &filter("{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}"),
            "spec.rules[0]: ReplacePrefixMatch needs a rule with one match…",
        ),
        (
            "HTTPRoute",
            &filter("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}"),
            &at("filters[0].urlRewrite.path: needs the field replaceFullPath, and not the other one"),
        ),
        (
            "HTTPRoute",
            &edit("{set: [{name: Host, value: a}]}"),
            &at("filters[0].requestHeaderModifier.set[0].name: \"Host\" cannot be edited; use a URLRewrite…"),
        ),
        (
            "HTTPRoute",
            &edit("{remove: [Content-Length]}"),
            &at("filters[0].requestHeaderModifier.remove[0]: \"Content-Length\" cannot be edited by a route…"),
        ),
        (
            "HTTPRoute",
            &edit("{set: [{name: a, value: b}], remove: [A]}"),
            &at("filters[0].requestHeaderModifier: edits the header a twice"),
        ),
        (
            "HTTPRoute",
            &edit("{set: [{name: a, value: \"b\\r\\nc: d\"}]}"),
            &at(
                "filters[0].requestHeaderModifier.set[0].value: \"b\u{fffd}\u{fffd}c: d\" must not have control characters",
            ),
        ),
        (
            "HTTPRoute",
            &filter("{type: RequestRedirect, requestRedirect: {}}"),
            &at("backendRefs: a rule that redirects sends nothing to backends…"),
        ),
        (
            "HTTPRoute",
            &redirect("statusCode: 300"),
            &at("filters[0].requestRedirect.statusCode: 300 is not one of: 301, 302, 303, 307, 308"),
        ),
        (
            "HTTPRoute",
            &redirect("scheme: ftp"),
            &at("filters[0].requestRedirect.scheme: \"ftp\" is not one of: http, https"),
        ),
    ]);
}

#[test]
fn grpc_and_tcp_routes_and_grants() {
    let grpc = |method: &str| {
        let spec = rule(&format!("matches: [{{method: {{{method}}}}}], backendRefs: [{{name: b, port: 1}}]"));
        let Spec::GrpcRoute(route) = good(&document("GRPCRoute", &spec)) else { panic!() };
        route.rules[0].matches[0].path.clone().unwrap()
    };
    assert_eq!(grpc("service: a.B, method: C"), PathMatch::Exact("/a.B/C".to_owned()));
    assert_eq!(grpc("service: a.B"), PathMatch::Prefix("/a.B".to_owned()));
    assert_eq!(grpc("method: C"), PathMatch::Regex("/[^/]+/C".to_owned()));
    assert_eq!(grpc("type: RegularExpression, service: 'a|b'"), PathMatch::Regex("/(?:a|b)/[^/]+".to_owned()));
    let to = "backendRefs: [{name: b, port: 1}]";
    let Spec::TcpRoute(tcp) = good(&document("TCPRoute", &rule(to))) else { panic!() };
    assert_eq!(tcp.rules[0].backends[0].namespace, "default");
    let method = |m: &str| rule(&format!("matches: [{{method: {{{m}}}}}], {to}"));
    expect(&[
        ("GRPCRoute", &method(""), "spec.rules[0].matches[0].method: needs service, method or both"),
        ("GRPCRoute", &method("service: a/b"), "spec.rules[0].matches[0].method.service: \"a/b\" must be…"),
        (
            "GRPCRoute",
            &rule(&format!("{to}, timeouts: {{}}")),
            "spec.rules[0].timeouts: there is no field \"timeouts\" here…",
        ),
        (
            "GRPCRoute",
            &rule("filters: [{type: RequestRedirect, requestRedirect: {}}]"),
            "spec.rules[0]: a GRPCRoute can neither redirect nor rewrite",
        ),
        ("TCPRoute", "{parentRefs: [{name: g}]}", "spec: the field rules is missing"),
        (
            "TCPRoute",
            &format!("{{parentRefs: [{{name: g}}], rules: [{{{to}}}, {{{to}}}]}}"),
            "warning spec.rules: only the first rule…",
        ),
        (
            "ReferenceGrant",
            "{from: [], to: [{group: '', kind: Service, nmae: a}]}",
            "spec.to[0].nmae: there is no field \"nmae\" here | did you mean…",
        ),
        ("ReferenceGrant", "{from: [{group: g, kind: k}], to: []}", "spec.from[0]: the field namespace is missing"),
    ]);
}

#[test]
fn workloads_and_meshes() {
    let spec = "{address: 'fd00::1', ports: [{name: http, port: 80}, {port: 90, appProtocol: tcp}], weight: 5, locality: {region: r}, dial: '[fd00::1]:15006'}";
    let Spec::Workload(workload) = good(&document("Workload", spec)) else { panic!() };
    assert_eq!(
        (workload.weight, workload.service_account.as_str(), workload.dial.unwrap().port()),
        (Some(5), "default", 15006)
    );
    assert_eq!(workload.ports[0].protocol, crate::AppProtocol::Http);
    let Spec::Mesh(mesh) = good("apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\n") else {
        panic!()
    };
    assert_eq!(mesh, crate::Mesh::default());
    expect(&[
        ("Workload", "{}", "spec: the field address is missing"),
        ("Workload", "{address: example.com}", "spec.address: \"example.com\" is not an IP address"),
        ("Workload", "{address: 10.0.0.1, weight: 0}", "spec.weight: 0 is out of range: 1 to 1000000 is allowed"),
        ("Workload", "{address: 10.0.0.1, dial: '10.0.0.1'}", "spec.dial: \"10.0.0.1\" must be `address:port`…"),
        (
            "Workload",
            "{address: 10.0.0.1, ports: [{port: 1}, {port: 1}]}",
            "spec.ports[1]: an earlier port has the same number or name",
        ),
        (
            "Workload",
            "{address: 10.0.0.1, adress: x}",
            "spec.adress: there is no field \"adress\" here | the fields here are: address, dial…",
        ),
        (
            "Mesh",
            "{mtls: {mode: strikt}}",
            "spec.mtls.mode: \"strikt\" is not one of: permissive, strict | did you mean \"strict\"?",
        ),
        ("Mesh", "{mtls: strict}", "spec.mtls: expected a mapping, found the text \"strict\""),
        ("Mesh", "{trustDomain: A}", "spec.trustDomain: \"A\" each part between dots must be…"),
        ("Mesh", "{accessLog: some}", "spec.accessLog: \"some\" is not one of: off, errors, all"),
    ]);
}

#[test]
fn policies() {
    let target = "targetRefs: [{kind: Service, name: a}]";
    let traffic = |more: &str| format!("{{{target}, {more}}}");
    let spec = traffic(
        "retries: {grpcStatuses: [UNAVAILABLE, ABORTED, UNAVAILABLE], statuses: [503]}, timeouts: {connect: 1s}",
    );
    let Spec::TrafficPolicy(policy) = good(&document("TrafficPolicy", &spec)) else { panic!() };
    let retries = policy.retries.unwrap();
    assert_eq!((retries.attempts, retries.grpc_statuses.as_slice(), retries.on.len()), (2, &[10, 14][..], 0));
    assert_eq!((policy.targets[0].kind, policy.targets[0].namespace.as_str()), (TargetKind::Service, "default"));
    let Spec::TrafficPolicy(policy) = good(&document("TrafficPolicy", &traffic("retries: {attempts: 1}"))) else {
        panic!()
    };
    assert_eq!(policy.retries.unwrap().on, [RetryCondition::Reset, RetryCondition::ConnectFailure]);
    expect(&[
        ("TrafficPolicy", "{}", "spec: the field targetRefs is missing"),
        (
            "TrafficPolicy",
            "{targetRefs: [{kind: Servce, name: a}]}",
            "spec.targetRefs[0].kind: \"Servce\" is not one of…",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{kind: Service, group: apps, name: a}]}",
            "spec.targetRefs[0].group: the group of Service is \"\"",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{kind: Namespace, name: other}]}",
            "spec.targetRefs[0].name: a policy can apply to its own namespace alone, which is default",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{kind: Mesh, name: default, sectionName: a}]}",
            "spec.targetRefs[0].sectionName: a Mesh has no sections",
        ),
        (
            "TrafficPolicy",
            &format!("{{{}}}", target.replace("}]", "}, {kind: Service, name: a}]")),
            "spec.targetRefs: names Service a twice",
        ),
        (
            "TrafficPolicy",
            &traffic("loadBalancing: {algorithm: maglev}"),
            "spec.loadBalancing: maglev needs a hashKey | for example `hashKey: {header: x-user}`, `{cookie: session}` or \
             `{sourceAddress: true}`",
        ),
        (
            "TrafficPolicy",
            &traffic("loadBalancing: {algorithm: fast}"),
            "spec.loadBalancing.algorithm: \"fast\" is not one of: fastest, least-request, round-robin, random, \
             ring-hash, maglev | did you mean \"fastest\"?",
        ),
        ("TrafficPolicy", &traffic("rateLimits: {}"), "spec.rateLimits: not implemented yet | remove the field"),
        (
            "TrafficPolicy",
            &traffic("timeouts: {request: 1s, attempt: 2s}"),
            "spec.timeouts: attempt is longer than request, which bounds all attempts together",
        ),
        ("TrafficPolicy", &traffic("timeouts: {connect: 0s}"), "spec.timeouts.connect: must be longer than zero"),
        ("TrafficPolicy", &traffic("retries: {on: [5xx]}"), "spec.retries.on: this list is called conditions…"),
        (
            "TrafficPolicy",
            &traffic("retries: {conditions: [5x]}"),
            "spec.retries.conditions[0]: \"5x\" is not one of: 5xx, gateway-error, reset, connect-failure | did you mean \"5xx\"?",
        ),
        (
            "TrafficPolicy",
            &traffic("retries: {grpcStatuses: [unavailable]}"),
            "spec.retries.grpcStatuses[0]: \"unavailable\" is not one of…",
        ),
        (
            "TrafficPolicy",
            &traffic("retries: {attempts: 11}"),
            "spec.retries.attempts: 11 is out of range: 0 to 10 is allowed",
        ),
        (
            "TrafficPolicy",
            &traffic("retries: {backoff: {base: 2s, max: 1s}}"),
            "spec.retries.backoff: base is longer than max",
        ),
        (
            "TrafficPolicy",
            &traffic("outlierDetection: {maxEjectedPercent: 101}"),
            "spec.outlierDetection.maxEjectedPercent: 101 is out of range: 0 to 100 is allowed",
        ),
        (
            "TrafficPolicy",
            &traffic("outlierDetection: {baseEjection: 2s, maxEjection: 1s}"),
            "spec.outlierDetection: baseEjection is longer than maxEjection",
        ),
    ]);
}

#[test]
fn authorization() {
    let spec = "{rules: [{from: [{serviceAccounts: [a, n/b], identities: ['*/sa/c'], addresses: [10.0.0.1]}], to: [{paths: [/x*], headers: [{name: A, exact: b}]}]}, {}]}";
    let Spec::AuthorizationPolicy(policy) = good(&document("AuthorizationPolicy", spec)) else { panic!() };
    assert_eq!(policy.targets, [authorization_policy::whole_namespace("default")]);
    let caller = &policy.rules[0].from[0];
    let accounts: Vec<_> = caller.service_accounts.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
    assert_eq!(
        (accounts.as_slice(), caller.addresses[0].as_str()),
        (&[("default", "a"), ("n", "b")][..], "10.0.0.1/32")
    );
    expect(&[
        ("AuthorizationPolicy", "{action: block}", "spec.action: \"block\" is not one of: allow, deny, audit"),
        ("AuthorizationPolicy", "{action: deny}", "warning spec: a policy without rules matches nothing…"),
        (
            "AuthorizationPolicy",
            "{targetRefs: [{kind: HTTPRoute, name: a}]}",
            "spec.targetRefs[0].kind: a policy of this kind on a HTTPRoute is not implemented yet…",
        ),
        ("AuthorizationPolicy", "{targetRefs: }", "spec.targetRefs: expected a list, found nothing"),
        ("AuthorizationPolicy", "{rules: [{when: []}]}", "spec.rules[0].when: not implemented yet | remove the field"),
        ("AuthorizationPolicy", "{rules: [{from: }]}", "spec.rules[0].from: expected a list, found nothing"),
        ("AuthorizationPolicy", "{rules: [{from: []}]}", "spec.rules[0].from: is an empty list | leave the field out…"),
        ("AuthorizationPolicy", "{rules: [{from: [{}]}]}", "spec.rules[0].from[0]: says nothing about the caller…"),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{namespaces: }]}]}",
            "spec.rules[0].from[0].namespaces: expected a list, found nothing",
        ),
        ("AuthorizationPolicy", "{rules: [{to: [{methods: []}]}]}", "spec.rules[0].to[0].methods: is an empty list…"),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{methods: [get]}]}]}",
            "spec.rules[0].to[0].methods[0]: \"get\" must be in upper case: GET",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{paths: [a]}]}]}",
            "spec.rules[0].to[0].paths[0]: \"a\" must begin with `/` or `*`",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{headers: [{name: a}]}]}]}",
            "spec.rules[0].to[0].headers[0]: needs one of exact and regex",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{addresses: [10.0.0.1/8]}]}]}",
            "spec.rules[0].from[0].addresses[0]: \"10.0.0.1/8\" has bits set behind its first 8",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{identities: [x]}]}]}",
            "spec.rules[0].from[0].identities[0]: \"x\" must begin with `spiffe://` or `*`",
        ),
    ]);
}
