# Runs nginx as one instance that says who it is and serves the files of `public`. The first argument goes to `listen`.
set -eu
folder="$PWD/$POD_NAME"
mkdir -p "$folder"
cat > "$folder/nginx.conf" <<CONF
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  access_log off;
  keepalive_requests 1000000;
  server {
    listen $POD_IP:8080 ${1:-};
    root $PWD/public;
    add_header X-Instance $POD_NAME always;
    # While the file \`broken\` is in the instance's folder, it fails.
    location = /who {
      if (-f $folder/broken) { return 500; }
      return 200 "$POD_NAME\n";
    }
  }
}
CONF
PATH="$PATH:/usr/sbin"
exec nginx -e stderr -p "$folder" -c "$folder/nginx.conf"
