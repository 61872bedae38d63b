# Starts nginx for one instance, with a configuration that is made for its address and nothing written outside a folder of
# its own. An argument (`http2`) goes to `listen`; what is in `nginx.d/*.conf`, if there is any, goes into the server.
set -eu
folder=$(mktemp -d "${TMPDIR:-/tmp}/pages-$POD_NAME.XXXXXX")
trap 'rm -rf "$folder"' EXIT
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
  server {
    listen $POD_IP:8080 ${1:-};
    root $PWD/public;
    set \$instance $POD_NAME;
    add_header x-instance \$instance always;
    include $PWD/nginx.d/*.conf;
  }
}
CONF
PATH="$PATH:/usr/sbin"
nginx -e stderr -p "$folder" -c "$folder/nginx.conf" &
trap 'kill $!; wait $!' TERM INT
wait $!
