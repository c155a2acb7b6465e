use crate::world::World;
use expect_test::expect;

#[test]
fn the_help_lists_the_commands_and_the_exit_statuses() {
    let world = World::new();
    world.check(
        "--help",
        expect![[r#"
            A configuration store in which every change is one event on a log.

            The configuration is a tree of protobuf messages. Paths name its nodes: /devices/olt-1/ports/3.
            Every command works on a server, or with --data on a folder that no server has open. Data is printed
            on stdout, everything else on stderr.

            Usage: confold [OPTIONS] <COMMAND>

            Commands:
              init         Make a data folder with a new store, or one that joins the store on a Kafka topic
              serve        Serve stores until interrupted
              status       Show how a store and its replica are doing
              stores       List the stores of a server
              store        Make, open, close and list the stores of a server that runs, or rebuild one that does
                           not
              schema       Which messages the configuration is made of
              get          Show a node, or all elements of a container
              ls           List the keys of a container, or what a node has below it
              diff         Show what differs between two states
              log          Show who changed what, when and why; the latest first
              show         Show one event in full: who, when, why, under which conditions, and what it does
              put          Make a node and everything below it equal to a value
              update       Replace the data of a node that exists; its children stay
              set          Set single fields of nodes that exist
              unset        Clear single fields of nodes that exist
              add          Add a new element to a keyed container, with its children
              remove       Take elements out of their containers, with everything below them [alias: rm]
              replace      Make an existing node, or a whole container, equal to a value
              edit         Change a node in your editor
              apply        Make the store as files say
              commit       Commit several operations as one event: all of them or none
              outcome      Tell what became of an event
              withdraw     Make the end of an event definite: tell its outcome, or bar it for good
              tag          Name a revision
              untag        Take names off their revisions: all of them or none
              tags         List the names of revisions
              prune        Let go of old revisions for good
              retention    How long old revisions are kept
              policy       Who may do what
              token        Bearer tokens: who shows one is its principal
              sync         Wait until everything that was acknowledged before is seen here
              export       Take out what a store is made of
              restore      Bring an exported or copied log to life, in a new data folder
              snapshot     Begin a replica without reading the log from its start
              admin        Rare steps in a store's life
              doctor       Look for what is wrong with a store, and say what to do
              bench        Measure how fast a store is on this machine, beside the limits measured in the same
                           run
              completions  Print a script that completes commands and options in a shell

            Options:
              -h, --help
                      Print help (see a summary with '-h')

              -V, --version
                      Print version

            Global options:
                  --server <ADDR>
                      The server to ask; CONFOLD_SERVER where not given, else 127.0.0.1:7411

                  --data <DIR>
                      Work on the store in this folder, which no server has open; CONFOLD_DATA where not given

                  --as <NAME>
                      Act with the rights of this principal on the store of --data; CONFOLD_AS where not given.
                      A server knows who calls from a token or a certificate

                  --store <NAME>
                      Which store, where a server has several; CONFOLD_STORE where not given

                  --ca <FILE>
                      For https://: certificates (PEM) that may have signed the server's; CONFOLD_CA where not
                      given, else those that the system trusts

                  --cert <FILE>
                      For https://: the certificate (PEM) to show to the server; CONFOLD_CERT where not given

                  --key <FILE>
                      The key (PEM) of --cert, which only its owner may read; CONFOLD_KEY where not given

                  --token-file <FILE>
                      A file with the bearer token that says who asks, which only its owner may read;
                      CONFOLD_TOKEN (the token itself) or CONFOLD_TOKEN_FILE where not given

                  --insecure
                      Send a token to another machine without TLS; with `serve`, let other machines in without
                      TLS or without knowing who they are

                  --json
                      Print JSON instead of text for people, errors included

                  --timeout <TIME>
                      How long to wait for an answer: 500ms, 10s, 2m [default: 10s]

                  --color <WHEN>
                      When to use colours; never where NO_COLOR is set

                      [default: auto]

            Exit status:
              0  done, or nothing was to be done
              1  refused by what stands in the store: a conflict, a guard, something that is there already or is
              not
              2  invalid: the command line, a path, a value or a schema
              3  unavailable, or the outcome is unknown
              4  no permission
              5  damage, or an internal error
        "#]],
    );
    world.check(
        "--version",
        expect![[r#"
        confold 0.0.0-test
    "#]],
    );
}

#[test]
fn help_of_a_command_explains_its_options() {
    let world = World::new();
    world.check(
        "get --help",
        expect![[r#"
        Show a node, or all elements of a container.

        By default the node's own data, as YAML; what lies below is counted on stderr. A container is shown
        as a mapping from paths to values, which `confold apply` reads.

        Example: confold get /devices/olt-1 --depth 1 --at v1.2

        Usage: confold get [OPTIONS] [PATH]

        Arguments:
          [PATH]
                  The node or container

                  [default: /]

        Options:
              --depth <N>
                  How many levels of children to show

                  [default: 0]

              --deep
                  Show everything below

              --field <FIELDS>
                  Only these fields of the data: names with dots, commas between them

              --format <FORMAT>
                  How to write values [default: yaml]

                  Possible values:
                  - json
                  - yaml
                  - textproto: Protobuf's text format
                  - binary:    Protobuf's wire format

          -h, --help
                  Print help (see a summary with '-h')

        Which state:
              --at <STATE>
                  A revision, tag, time or root: `42`, `v1.2`, `time:2026-11-21T10:00:00Z`, `root:3f9c`,
                  `pos:4182`; `v1.2~3` is the third revision before it [default: latest]

              --consistency <MODE>
                  How fresh the state must be [default: stale, or at-least with a token]

                  Possible values:
                  - stale:        What the replica has folded
                  - at-least:     At least what --token names
                  - linearizable: Everything acknowledged before the call

              --token <TOKEN>
                  See at least what this token of an earlier answer names

              --schema-of-its-time
                  Show a past state with the schema of its time instead of the latest one

        Global options:
              --server <ADDR>
                  The server to ask; CONFOLD_SERVER where not given, else 127.0.0.1:7411

              --data <DIR>
                  Work on the store in this folder, which no server has open; CONFOLD_DATA where not given

              --as <NAME>
                  Act with the rights of this principal on the store of --data; CONFOLD_AS where not given.
                  A server knows who calls from a token or a certificate

              --store <NAME>
                  Which store, where a server has several; CONFOLD_STORE where not given

              --ca <FILE>
                  For https://: certificates (PEM) that may have signed the server's; CONFOLD_CA where not
                  given, else those that the system trusts

              --cert <FILE>
                  For https://: the certificate (PEM) to show to the server; CONFOLD_CERT where not given

              --key <FILE>
                  The key (PEM) of --cert, which only its owner may read; CONFOLD_KEY where not given

              --token-file <FILE>
                  A file with the bearer token that says who asks, which only its owner may read;
                  CONFOLD_TOKEN (the token itself) or CONFOLD_TOKEN_FILE where not given

              --insecure
                  Send a token to another machine without TLS; with `serve`, let other machines in without
                  TLS or without knowing who they are

              --json
                  Print JSON instead of text for people, errors included

              --timeout <TIME>
                  How long to wait for an answer: 500ms, 10s, 2m [default: 10s]

              --color <WHEN>
                  When to use colours; never where NO_COLOR is set

                  [default: auto]
    "#]],
    );
    world.check(
        "apply --help",
        expect![[r#"
            Make the store as files say.

            A file holds documents. A document is the root message, as in `devices: [...]`, or a mapping from
            paths to values, as in `/devices/olt-1: {...}`. Each node or element that it names becomes exactly
            what the document says, with everything below it; of the root's own data only the named fields
            change. What no document names stays, unless --prune.

            All of it is one commit where it fits into one event. More is cut into several; applying the same
            files again does only what is left. Big trees are best given as JSON, which is read as it comes, or
            as several YAML documents.

            Example: confold apply -f schemas/examples/network.yaml --dry-run

            Usage: confold apply [OPTIONS] --file <FILE>

            Options:
              -f, --file <FILE>
                      Files, folders of files (.json, .yaml, .yml, .textproto), or `-` for standard input

                  --format <FORMAT>
                      How files without a telling extension are written

                      Possible values:
                      - json
                      - yaml
                      - textproto: Protobuf's text format
                      - binary:    Protobuf's wire format

                  --dry-run
                      Only show what would change

                  --prune
                      Also remove the elements of the named containers that no document names

                  --atomic
                      Refuse what does not fit into one commit

                  --strict
                      Refuse to change READ_ONLY fields

                  --commit-size <SIZE>
                      Cut commits at this size [default: what one event holds]

              -h, --help
                      Print help (see a summary with '-h')

            Who and why:
                  --author <NAME>
                      Who writes, as history shows it [default: the user's name]

                  --reason <TEXT>
                      Why, as history shows it

            Global options:
                  --server <ADDR>
                      The server to ask; CONFOLD_SERVER where not given, else 127.0.0.1:7411

                  --data <DIR>
                      Work on the store in this folder, which no server has open; CONFOLD_DATA where not given

                  --as <NAME>
                      Act with the rights of this principal on the store of --data; CONFOLD_AS where not given.
                      A server knows who calls from a token or a certificate

                  --store <NAME>
                      Which store, where a server has several; CONFOLD_STORE where not given

                  --ca <FILE>
                      For https://: certificates (PEM) that may have signed the server's; CONFOLD_CA where not
                      given, else those that the system trusts

                  --cert <FILE>
                      For https://: the certificate (PEM) to show to the server; CONFOLD_CERT where not given

                  --key <FILE>
                      The key (PEM) of --cert, which only its owner may read; CONFOLD_KEY where not given

                  --token-file <FILE>
                      A file with the bearer token that says who asks, which only its owner may read;
                      CONFOLD_TOKEN (the token itself) or CONFOLD_TOKEN_FILE where not given

                  --insecure
                      Send a token to another machine without TLS; with `serve`, let other machines in without
                      TLS or without knowing who they are

                  --json
                      Print JSON instead of text for people, errors included

                  --timeout <TIME>
                      How long to wait for an answer: 500ms, 10s, 2m [default: 10s]

                  --color <WHEN>
                      When to use colours; never where NO_COLOR is set

                      [default: auto]
        "#]],
    );
}

#[test]
fn every_command_says_what_it_does_with_an_example() {
    fn walk(command: &clap::Command, name: &str, seen: &mut usize) {
        let mut command = command.clone();
        let children: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        for child in &children {
            walk(child, &format!("{name} {}", child.get_name()), seen);
        }
        if children.is_empty() {
            *seen += 1;
            let help = command.render_long_help().to_string();
            assert!(
                help.contains(&format!("Example: {name}")) || help.contains("Example: confold get"),
                "{name}:\n{help}"
            );
            for option in command.get_arguments() {
                assert!(
                    option.get_help().is_some() || option.is_positional(),
                    "{name} --{}",
                    option.get_id()
                );
            }
        }
    }
    let mut seen = 0;
    let mut command = confold_cli::command("0");
    // Options of all commands reach each of them only here, and some of its own name them.
    command.build();
    walk(&command, "confold", &mut seen);
    assert!(seen > 30, "{seen}");
}
