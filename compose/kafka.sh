#!/bin/sh
# A real Kafka without Docker, to try things out and for the tests: KRaft, one or three brokers on loopback, each one
# both broker and controller. Kafka's jars come from Maven Central.
#
#   compose/kafka.sh fetch               once: Java, Maven and openssl from Debian where missing, and 54 MB of jars
#   compose/kafka.sh start DIR [OPTION]  makes or re-starts the cluster in DIR, waits until it serves, prints HOST:PORT,...
#   compose/kafka.sh hold DIR [OPTION]   the same, but the cluster lives as long as this command: see below
#   compose/kafka.sh stop DIR            stops it in order; DIR stays and can be started again
#   compose/kafka.sh tool NAME [ARG]     a command of Kafka's: topics, configs, acls, delete-records, dump-log, offsets,
#                                        leader-election, features, quorum, reassign, storage
#
# Options of start and hold; they count when DIR is made, later starts take what stands in DIR:
#   --brokers N       1 (default), or 3: then topics have three copies and min.insync.replicas is 2
#   --heap MB         memory of each broker (default 512 for one, 320 for three)
#   --port P          use P, P+1, P+2 ... (default: free ports)
#   --sasl NAMES      also a listener with TLS and SCRAM-SHA-512, for these users (comma between them)
#   --tls             also a listener with TLS that demands a client's certificate
#   --acl             who is not allowed is refused; whoever comes without TLS is the super user
#   --fronts N        also N listeners that each tell their clients other addresses than their own: whoever wants to stand between
#                     client and broker listens there, at front-N/asked, and passes on to front-N/served
#   --set NAME=VALUE  a broker setting, as in server.properties; may be repeated
#   --speed           compile everything properly: for measuring; starts slower
#
# In DIR: `bootstrap` (and `bootstrap-sasl`, `bootstrap-tls`) hold HOST:PORT,...; `tls` has ca.pem, client.pem and client.key,
# and other-ca.pem, which signed nothing here; `sasl/NAME` is that user's password; `broker-N` has its settings, data and log.
#
# hold prints `ready BOOTSTRAP`, then obeys lines on its standard input and answers each with one line, `ok` or
# `failed: why`: `stop N` (in order), `kill N` (SIGKILL), `pause N`, `resume N`, `start N`, `start all`. When its input ends, which it also
# does when whoever holds it dies, it kills all brokers; with --remove it removes DIR too.
set -eu

kafka=4.1.1
scala=2.13
slf4j=1.7.36
jars="${XDG_CACHE_HOME:-$HOME/.cache}/confold/kafka-$kafka"
script=$0

fail() {
    echo "$*" >&2
    exit 1
}

# --- Java and jars ---

# Prints the path of a Java that Kafka takes: 17 or later.
find_java() {
    for java in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [ -x "$java" ] || continue
        major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
        if [ "${major:-0}" -ge 17 ]; then
            echo "$java"
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null 2>&1 || fail "Run this as root or install sudo: packages are missing"
        sudo "$@"
    fi
}

install() {
    echo "Installing packages: $*" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
        as_root apt-get update -q >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
    }
}

fetch() {
    if ! find_java >/dev/null; then
        known() { apt-cache show "$1" >/dev/null 2>&1; }
        # A machine on which nothing was installed yet has no lists of packages.
        known openjdk-21-jre-headless || known openjdk-17-jre-headless || as_root apt-get update -q >&2
        known openjdk-21-jre-headless && jre=openjdk-21-jre-headless || jre=openjdk-17-jre-headless
        install "$jre"
    fi
    command -v openssl >/dev/null 2>&1 || install openssl
    if [ ! -e "$jars/classpath" ]; then
        command -v mvn >/dev/null 2>&1 || install maven
        echo "Fetching Kafka $kafka from Maven Central into $jars" >&2
        mkdir -p "$(dirname "$jars")"
        new=$(mktemp -d -p "$(dirname "$jars")")
        cat >"$new/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>confold</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$scala</artifactId><version>$kafka</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$slf4j</version></dependency>
  </dependencies>
</project>
POM
        mvn -q -B -Dstyle.color=never -f "$new/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$new" >&2 || {
            rm -rf "$new"
            fail "Maven could not fetch Kafka: see above"
        }
        for jar in "$new"/*.jar; do
            printf '%s:' "$jars/${jar##*/}"
        done >"$new/classpath"
        # Another fetch may have been quicker: then its folder stays.
        mv -T "$new" "$jars" 2>/dev/null || rm -rf "$new"
    fi
    [ -e "$jars/classpath" ] || fail "$jars is incomplete: remove it and fetch again"
    [ -e "$jars/classes" ] || keep_classes
}

# Starts a broker once and keeps what Java made of its classes: later starts take half as long.
keep_classes() {
    need_kafka
    dir=$(mktemp -d) brokers=1
    make_cluster
    share="-XX:ArchiveClassesAtExit=$dir/classes"
    launch 1
    await 1 || true
    end 1 TERM
    [ ! -s "$dir/classes" ] || mv "$dir/classes" "$jars/classes"
    rm -rf "$dir"
}

need_kafka() {
    [ -e "$jars/classpath" ] || fail "Kafka is not there: run compose/kafka.sh fetch"
    java=$(find_java) || fail "There is no Java 17 or later: run compose/kafka.sh fetch"
    classpath=$(cat "$jars/classpath")
    [ ! -e "$jars/classes" ] || share="-XX:SharedArchiveFile=$jars/classes"
}

# Runs a class of Kafka's in a small Java machine.
run_class() {
    "$java" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$classpath" "$@"
}

tool() {
    name=${1:?which tool?}
    shift
    case $name in
        topics) class=org.apache.kafka.tools.TopicCommand ;;
        configs) class=kafka.admin.ConfigCommand ;;
        acls) class=org.apache.kafka.tools.AclCommand ;;
        delete-records) class=org.apache.kafka.tools.DeleteRecordsCommand ;;
        dump-log) class=kafka.tools.DumpLogSegments ;;
        offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
        leader-election) class=org.apache.kafka.tools.LeaderElectionCommand ;;
        features) class=org.apache.kafka.tools.FeatureCommand ;;
        quorum) class=org.apache.kafka.tools.MetadataQuorumCommand ;;
        reassign) class=org.apache.kafka.tools.reassign.ReassignPartitionsCommand ;;
        storage) class=kafka.tools.StorageTool ;;
        *) fail "There is no tool $name: topics, configs, acls, delete-records, dump-log, offsets, leader-election, features, quorum, reassign, storage" ;;
    esac
    run_class "$class" "$@"
}

# --- Making a cluster ---

# Prints $1 ports that nobody listens on, below those that the system gives to outgoing connections.
free_ports() {
    { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true; } | awk -v want="$1" -v seed="$(od -An -N4 -tu4 /dev/urandom)" '
        $4 == "0A" { n = split($2, part, ":"); taken[toupper(part[n])] = 1 }
        END {
            srand(seed % 2147483647)
            while (want > 0) {
                port = 16000 + int(rand() * 16000)
                hex = sprintf("%04X", port)
                if (!(hex in taken)) { taken[hex] = 1; print port; want-- }
            }
        }'
}

certificate() { # NAME SUBJECT EXTENSION...: a key and a certificate signed by ca
    name=$1 subject=$2
    shift 2
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$subject" \
        -keyout "$dir/tls/$name.key" -out "$dir/tls/$name.pem" "$@" 2>>"$dir/openssl.log" || fail "openssl failed: see $dir/openssl.log"
}

make_tls() {
    mkdir -p "$dir/tls"
    certificate ca "confold try-out CA" -addext keyUsage=critical,keyCertSign
    certificate other-ca "another CA" -addext keyUsage=critical,keyCertSign
    signed="-CA $dir/tls/ca.pem -CAkey $dir/tls/ca.key -addext basicConstraints=critical,CA:FALSE"
    # shellcheck disable=SC2086
    certificate broker broker $signed -addext subjectAltName=DNS:localhost
    # shellcheck disable=SC2086
    certificate client confold $signed -addext extendedKeyUsage=clientAuth
    cat "$dir/tls/broker.key" "$dir/tls/broker.pem" >"$dir/tls/broker-all.pem"
}

# Prints the items of $1, each with $2 before it and a comma between: `list "1 2" a` is a1,a2.
list() {
    joined=""
    for item in $1; do
        joined="$joined${joined:+,}$2$item"
    done
    echo "$joined"
}

make_settings() {
    [ "$brokers" = 1 ] || [ "$brokers" = 3 ] || fail "--brokers is 1 or 3, not $brokers"
    count=$((brokers * (4 + 2 * fronts)))
    if [ -n "$first_port" ]; then
        ports=$(awk -v first="$first_port" -v count="$count" 'BEGIN { for (i = 0; i < count; i++) print first + i }')
    else
        ports=$(free_ports "$count")
    fi
    # shellcheck disable=SC2086
    set -- $ports
    plain="" controller="" secret="" mutual="" voters="" node=1
    while [ "$node" -le "$brokers" ]; do
        plain="$plain $1" controller="$controller $2" secret="$secret $3" mutual="$mutual $4"
        voters="$voters${voters:+,}$node@127.0.0.1:$2"
        shift 4
        node=$((node + 1))
    done
    list "$plain" 127.0.0.1: >"$dir/bootstrap"
    [ -z "$sasl" ] || list "$secret" localhost: >"$dir/bootstrap-sasl"
    [ -z "$tls" ] || list "$mutual" localhost: >"$dir/bootstrap-tls"
    front=1
    while [ "$front" -le "$fronts" ]; do
        asked="" served="" node=1
        while [ "$node" -le "$brokers" ]; do
            asked="$asked $1" served="$served $2"
            shift 2
            node=$((node + 1))
        done
        mkdir -p "$dir/front-$front"
        list "$asked" 127.0.0.1: >"$dir/front-$front/asked"
        list "$served" 127.0.0.1: >"$dir/front-$front/served"
        front=$((front + 1))
    done
    least=1
    [ "$brokers" = 1 ] || least=2
    node=1
    while [ "$node" -le "$brokers" ]; do
        mkdir -p "$dir/broker-$node"
        p=$(echo $plain | cut -d ' ' -f $node) c=$(echo $controller | cut -d ' ' -f $node)
        s=$(echo $secret | cut -d ' ' -f $node) m=$(echo $mutual | cut -d ' ' -f $node)
        at="" told="" named="" front=1
        while [ "$front" -le "$fronts" ]; do
            at="$at,FRONT$front://$(cut -d , -f $node "$dir/front-$front/served")"
            told="$told,FRONT$front://$(cut -d , -f $node "$dir/front-$front/asked")"
            named="$named,FRONT$front:PLAINTEXT"
            front=$((front + 1))
        done
        {
            cat <<SETTINGS
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$p,CONTROLLER://127.0.0.1:$c${sasl:+,SASL_SSL://127.0.0.1:$s}${tls:+,SSL://127.0.0.1:$m}$at
advertised.listeners=PLAINTEXT://127.0.0.1:$p${sasl:+,SASL_SSL://localhost:$s}${tls:+,SSL://localhost:$m}$told
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL$named
log.dirs=$dir/broker-$node/data
auto.create.topics.enable=false
default.replication.factor=$brokers
min.insync.replicas=$least
offsets.topic.replication.factor=$brokers
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=$brokers
transaction.state.log.min.isr=$least
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
background.threads=1
num.recovery.threads.per.data.dir=1
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
SETTINGS
            if [ -n "$sasl$tls" ]; then
                cat <<SETTINGS
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/broker-all.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/tls/ca.pem
listener.name.ssl.ssl.client.auth=required
SETTINGS
            fi
            [ -z "$sasl" ] || cat <<SETTINGS
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
SETTINGS
            [ -z "$acl" ] || cat <<SETTINGS
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
SETTINGS
            printf '%s' "$set"
        } >"$dir/broker-$node/server.properties"
        node=$((node + 1))
    done
}

make_cluster() {
    mkdir -p "$dir"
    umask 077
    [ -z "$sasl$tls" ] || [ -e "$dir/tls/ca.pem" ] || make_tls
    make_settings
    # An id that begins with `-` would be taken for an option.
    set -- format --cluster-id "$(openssl rand -base64 16 | tr '+/' '-_' | tr -d '=' | sed 's/^-/A/')"
    if [ -n "$sasl" ]; then
        mkdir -p "$dir/sasl"
        for user in $(echo "$sasl" | tr , ' '); do
            openssl rand -hex 16 | tr -d '\n' >"$dir/sasl/$user"
            set -- "$@" --add-scram "SCRAM-SHA-512=[name=$user,password=$(cat "$dir/sasl/$user")]"
        done
    fi
    node=1
    while [ "$node" -le "$brokers" ]; do
        rm -rf "$dir/broker-$node/data"
        run_class kafka.tools.StorageTool "$@" --config "$dir/broker-$node/server.properties" >"$dir/broker-$node/format.log" 2>&1 || {
            cat "$dir/broker-$node/format.log" >&2
            fail "Kafka's storage could not be made in $dir/broker-$node"
        }
        node=$((node + 1))
    done
    if [ -z "$heap" ]; then
        [ "$brokers" = 1 ] && heap=512 || heap=320
    fi
    echo "$heap $speed" >"$dir/java"
    echo "$brokers" >"$dir/brokers"
}

# --- Running ---

# Does a process of this number live, and not only wait to be buried?
alive() {
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}

# Prints the process of a broker that runs.
process() { # NODE
    pid=$(cat "$dir/broker-$1/pid" 2>/dev/null) && alive "$pid" &&
        tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF "$dir/broker-$1/server.properties" && echo "$pid"
}

nodes() {
    seq "$(cat "$dir/brokers")"
}

launch() { # NODE COMMAND...: starts it behind COMMAND, does not wait
    node=$1
    shift
    read -r heap speed <"$dir/java" || true
    [ ! -e "$dir/broker-$node/server.log" ] || mv "$dir/broker-$node/server.log" "$dir/broker-$node/server.log.before"
    set -- "$@" "$java" ${speed:--XX:TieredStopAtLevel=1}
    "$@" $share -Xms64m "-Xmx${heap}m" -XX:+UseSerialGC -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
        -Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS" \
        -cp "$classpath" kafka.Kafka "$dir/broker-$node/server.properties" </dev/null >"$dir/broker-$node/server.log" 2>&1 &
    echo $! >"$dir/broker-$node/pid"
}

# Waits until a broker just launched says that it serves, at most a minute.
await() { # NODE
    for _ in $(seq 600); do
        ! grep -q "Kafka Server started" "$dir/broker-$1/server.log" || return 0
        alive "$(cat "$dir/broker-$1/pid")" || return 1
        sleep 0.1
    done
    return 1
}

# Ends a broker: with TERM in order, within half a minute; with KILL at once.
end() { # NODE SIGNAL
    pid=$(process "$1") || return 0
    kill "-$2" "$pid"
    for _ in $(seq 300); do
        alive "$pid" || return 0
        sleep 0.1
    done
    kill -KILL "$pid"
}

# Ends all brokers at once. Those that this shell has launched are buried as well, so that nothing of them is left, neither in /proc
# nor a file that a dying one still writes into a folder about to be removed.
end_all() { # SIGNAL
    for node in $(nodes); do
        end "$node" "$1" &
    done
    wait
}

# Starts all brokers that do not run, behind a command.
start_all() {
    for node in $(nodes); do
        process "$node" >/dev/null || launch "$node" "$@"
    done
    for node in $(nodes); do
        await "$node" || return 1
    done
}

# Makes the cluster when it is new, and starts it; somebody may take a free port before the broker does.
begin() {
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    case $dir in *[[:space:]]*) fail "$dir: Kafka's settings want a path without blanks" ;; esac
    new=""
    [ -e "$dir/brokers" ] || { new=yes && make_cluster; }
    for attempt in 1 2 3; do
        ! start_all "$@" || return 0
        end_all KILL
        [ -n "$new" ] && [ -z "$first_port" ] && grep -q "Address already in use" "$dir"/broker-*/server.log || break
        make_settings
    done
    for node in $(nodes); do
        tail -n 20 "$dir/broker-$node/server.log" >&2
    done
    fail "Kafka did not start: see the logs in $dir/broker-*/server.log"
}

obey() { # VERB NODE
    if [ "$1 $2" = "start all" ]; then
        start_all $holder && echo ok || echo "failed: see the logs in $dir/broker-*/server.log"
        return
    fi
    [ -d "$dir/broker-${2:-none}" ] || { echo "failed: there is no broker ${2:-}" && return; }
    pid=$(process "$2") || [ "$1" = start ] || { echo "failed: broker $2 does not run" && return; }
    case $1 in
        start)
            [ -z "$pid" ] || { echo "failed: broker $2 runs already" && return; }
            launch "$2" $holder
            await "$2" || { echo "failed: broker $2 did not start: see $dir/broker-$2/server.log" && return; }
            ;;
        stop) end "$2" TERM ;;
        kill) end "$2" KILL ;;
        pause) kill -STOP "$pid" ;;
        resume) kill -CONT "$pid" ;;
        *) echo "failed: $1 is none of start, stop, kill, pause, resume" && return ;;
    esac
    echo ok
}

hold() {
    # Should this shell be killed, the brokers go with it.
    holder="setpriv --pdeathsig KILL"
    trap '' INT
    begin $holder
    echo "ready $(cat "$dir/bootstrap")"
    while read -r verb node; do
        obey "$verb" "$node"
    done
    end_all KILL
    [ -z "$remove" ] || rm -rf "$dir"
}

brokers=1 heap="" first_port="" sasl="" tls="" acl="" set="" speed="" remove="" share="" fronts=0
command=${1:-help}
[ $# = 0 ] || shift
case $command in
    fetch) fetch ;;
    tool) need_kafka && tool "$@" ;;
    start | hold | stop)
        dir=${1:?which folder?}
        shift
        while [ $# -gt 0 ]; do
            case $1 in
                --brokers) brokers=$2 && shift ;;
                --heap) heap=$2 && shift ;;
                --port) first_port=$2 && shift ;;
                --sasl) sasl=$2 && shift ;;
                --tls) tls=yes ;;
                --acl) acl=yes ;;
                --fronts) fronts=$2 && shift ;;
                --set) set="$set$2
" && shift ;;
                --speed) speed=-XX:+TieredCompilation ;;
                --remove) remove=yes ;;
                *) fail "There is no option $1: see the top of compose/kafka.sh" ;;
            esac
            shift
        done
        need_kafka
        case $command in
            start) begin setsid && cat "$dir/bootstrap" ;;
            hold) hold ;;
            stop) [ ! -e "$dir/brokers" ] || { dir=$(cd "$dir" && pwd) && end_all TERM; } ;;
        esac
        ;;
    *) sed -n '2,/^set -eu/{s/^# \{0,1\}//p;}' "$script" ;;
esac
