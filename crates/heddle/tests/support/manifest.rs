//! Manifests for tests, what runs in them, and where it is heard.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use testkit::heddle::Heddle;

use super::{Mesh, processes};

/// Settings of every test's mesh.
pub(crate) const STRICT: &str = "apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {trustDomain: test.example, mtls: {mode: strict}}
";

/// A small HTTP/1.1 program that says who it is.
pub(crate) const WHO: &str = "exec \"$HEDDLE\" demo-service --role cart --delay 1 --jitter 1 --listen \"$POD_IP:8080\"";

/// nginx with HTTP/1.1.
pub(crate) const NGINX: &str = "exec sh nginx.sh";

/// nginx with HTTP/2 without TLS.
pub(crate) const NGINX_HTTP2: &str = "exec sh nginx.sh http2";

/// A service in the namespace `t` whose port 80 goes to port 8080 of its instances.
pub(crate) fn service(name: &str, protocol: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: t}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080, appProtocol: {protocol}}}]
"
    )
}

/// Instances called `name` of the service `app`, with its service account, that run `command` (without single quotes) by a
/// shell.
pub(crate) fn instances(name: &str, app: &str, replicas: u32, command: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: t}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app}, set: {name}}}}}
  template:
    metadata:
      labels: {{app: {app}, set: {name}}}
      annotations: {{heddle.dev/command: '{command}'}}
    spec:
      serviceAccountName: {app}
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        command: [\"true\"]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A program of ours in Python's standard library, for what nginx does not tell about a request.
pub(crate) const THINGS: &str = "exec python3 things.py \"$POD_IP\" 8080";

/// One instance `client-0` that calls others.
pub(crate) fn client() -> String {
    service("client", "http") + &instances("client", "client", 1, &WHO.replace("--role cart", "--role catalog"))
}

impl Mesh {
    /// Runs one manifest, with files beside it that its programs read; [`NGINX`] and [`THINGS`] are always there.
    #[track_caller]
    pub(crate) fn with_files(manifest: &str, files: &[(&str, &[u8])]) -> Mesh {
        Mesh::run_with_files(Heddle::new(), manifest, files)
    }

    /// The same, in a mode of interception that the test needs.
    #[track_caller]
    pub(crate) fn in_mode(mode: &str, manifest: &str) -> Mesh {
        Mesh::run_with_files(Heddle::in_mode(mode), manifest, &[])
    }

    /// The same, as `heddle` is run.
    #[track_caller]
    pub(crate) fn run_with_files(heddle: Heddle, manifest: &str, files: &[(&str, &[u8])]) -> Mesh {
        let folder = heddle.folder();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder");
            fs::write(path, bytes).expect("a file");
        };
        write("mesh.yaml", manifest.as_bytes());
        write("nginx.sh", include_bytes!("../../../../examples/polyglot/nginx.sh"));
        // It says who it is, and fails while there is a file of that name.
        let who = format!(
            "keepalive_requests 1000000;
             location = /who {{ if (-f {}/broken-$instance) {{ return 500; }} return 200 \"$instance\\n\"; }}",
            folder.path().display()
        );
        write("nginx.d/who.conf", who.as_bytes());
        write("things.py", include_bytes!("things.py"));
        for (name, bytes) in files {
            write(name, bytes);
        }
        Mesh::run(heddle, folder, &[])
    }

    /// The address of the instance `name`.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> IpAddr {
        let found = self.instances().into_iter().find(|i| i["name"] == name);
        match found.as_ref().and_then(|i| i["address"].as_str()).map(str::parse) {
            Some(Ok(address)) => address,
            _ => panic!("{name} has no address: {found:?}"),
        }
    }

    /// Where the sidecar of the instance `name` takes requests to forward.
    #[track_caller]
    pub(crate) fn forward_proxy(&self, name: &str) -> SocketAddr {
        SocketAddr::new(self.address(name), 15001)
    }

    /// Where the sidecar of the instance `name` hears calls of `service`, as its application's variables say.
    #[track_caller]
    pub(crate) fn service_port(&self, name: &str, service: &str) -> SocketAddr {
        let wanted = service.to_uppercase().replace('-', "_");
        let of = |environment: &str, name: &str| {
            let start = format!("{name}=");
            environment.split('\0').find_map(|v| v.strip_prefix(&start)).map(str::to_owned)
        };
        let found = processes(self.heddle.runtime()).into_iter().find_map(|(pid, _)| {
            let environment = fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let own = of(&environment, "POD_NAME").is_some_and(|other| other == name);
            let host = of(&environment, &format!("{wanted}_SERVICE_HOST")).filter(|_| own)?;
            let port = of(&environment, &format!("{wanted}_SERVICE_PORT"))?;
            format!("{host}:{port}").parse().ok()
        });
        found.unwrap_or_else(|| panic!("{name} is not told where {service} is"))
    }

    /// A sum over the lines of the metrics of the instance `name` whose start and labels contain all of `words`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, words: &[&str]) -> f64 {
        let url = format!("http://{}:15020/metrics", self.address(name));
        let text = testkit::load::curl([url]).text().to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
