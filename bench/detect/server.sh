#!/bin/sh
# server.sh NAME PORT: runs a server of Debian's on $POD_IP:PORT with data of its own, which ends with it.
set -eu
name=$1 port=$2
data=$(mktemp -d "/tmp/heddle-$name.XXXXXX")
chmod 755 "$data"
PATH=$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)

# What is started ends with this script, however that ends. Databases refuse to be root.
own="setpriv --pdeathsig TERM"
if [ "$(id -u)" = 0 ]; then
    chown 65534:65534 "$data"
    own="$own --reuid 65534 --regid 65534 --clear-groups"
fi

server=
end() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait || true
    rm -rf "$data"
}
trap end EXIT
trap 'exit 143' TERM INT

run() {
    $own "$@" &
    server=$!
    wait "$server"
}

case $name in
mariadb)
    $own mariadb-install-db --no-defaults --datadir="$data/db" --auth-root-authentication-method=normal --skip-test-db >"$data/log" 2>&1
    # A statement a line.
    printf '%s\n' "CREATE USER 'any'@'%';" "GRANT SELECT ON *.* TO 'any'@'%';" >"$data/init.sql"
    run mariadbd --no-defaults --datadir="$data/db" --bind-address="$POD_IP" --port="$port" --socket="$data/socket" \
        --pid-file="$data/pid" --init-file="$data/init.sql" --skip-name-resolve --innodb-buffer-pool-size=16M
    ;;
postgres)
    $own initdb --pgdata="$data/db" --auth=trust --username=any --no-sync >"$data/log" 2>&1
    $own sh -c "echo 'host all all all trust' >> $data/db/pg_hba.conf"
    run postgres -D "$data/db" -h "$POD_IP" -p "$port" -k "$data" -c shared_buffers=16MB
    ;;
nats) run nats-server --addr "$POD_IP" --port "$port" ;;
redis) run redis-server --bind "$POD_IP" --port "$port" --save '' --dir "$data" --protected-mode no ;;
smtp) run /usr/bin/python3 -m aiosmtpd --nosetuid --listen "$POD_IP:$port" --class aiosmtpd.handlers.Sink ;;
ssh)
    ssh-keygen -q -t ed25519 -N '' -f "$data/key"
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    # It may be root, and lets nobody in.
    own="setpriv --pdeathsig TERM"
    run /usr/sbin/sshd -D -e -f /dev/null -h "$data/key" -p "$port" -o ListenAddress="$POD_IP" -o PidFile=none -o UsePAM=no
    ;;
esac
