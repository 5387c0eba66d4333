"""What members can propose with our constitution, as one table: each action, its arguments, and how a command line gives them.

From here come the commands below `ledgerd gov propose`. A test holds the table against the constitution's own definitions, so that nothing
is missing here that members could propose. Not here: reading values (`cli.gov_arguments`), the commands (`cli.gov_propose`).
"""

from enum import Enum, auto
from typing import Final, NamedTuple


class Kind(Enum):
    """How an argument is given."""

    CERTIFICATE = auto()  # a PEM file with one certificate
    CERTIFICATES = auto()  # a PEM file with one or more
    SERVICE = auto()  # a PEM file; without it, the certificate that the service itself shows
    PUBLIC_KEY = auto()  # a PEM file with an RSA key
    OBJECT = auto()  # JSON, or @FILE
    VALUE = auto()  # the same, and it need not be an object
    BUNDLE = auto()  # a folder with app.json and src/, or a JSON file
    SCRIPTS = auto()  # one or more files of JavaScript, without an option's name
    CERTIFIED = auto()  # 64 hexadecimal digits, or the file of the certificate that they are the digest of
    ID = auto()  # 64 hexadecimal digits, or the first of them
    HEX = auto()  # bytes in hexadecimal digits
    TEXT = auto()
    WHOLE = auto()
    TIME = auto()
    FLAG = auto()
    CHOICE = auto()


class Argument(NamedTuple):
    """One argument.

    Attributes:
        name: As the constitution knows it; the option is `--name`, with dashes.
        help: One sentence, for people.
        optional: It may be left out.
        size: For HEX, in bytes; 0 for any.
        values: For CHOICE.
    """

    name: str
    kind: Kind
    help: str
    optional: bool = False
    size: int = 0
    values: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """Name of the option."""
        return f"--{self.name.replace('_', '-')}"


class Action(NamedTuple):
    """One action, as `set_user`; its command is `set-user`."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()

    @property
    def command(self) -> str:
        """Name of the command."""
        return self.name.replace("_", "-")


_PERIOD: Final = (
    Argument("valid_from", Kind.TIME, "When the certificate begins; by default at the service's last signed time.", optional=True),
    Argument("validity_period_days", Kind.WHOLE, "For how many days; by default and at most what the service allows.", optional=True),
)
_THRESHOLD_HELP: Final = "How many members together can recover the service."
_NODE: Final = Argument("node_id", Kind.ID, "Which node, by the first digits of its name or all: `ledgerd node list`.")
_CPUID: Final = Argument("cpuid", Kind.HEX, "Of the processor, 8 hexadecimal digits.", size=4)
_ISSUER: Final = Argument("issuer", Kind.TEXT, "The issuer's URL, https://...")
_DID: Final = Argument("did", Kind.TEXT, "Of the publisher, did:x509:...")
_FEED: Final = Argument("feed", Kind.TEXT, "Which of its products.")
_PCRS: Final = (
    Argument("pcr0", Kind.HEX, "Of the whole image: `ledgerd image describe`.", size=48),
    Argument("pcr1", Kind.HEX, "Of its kernel and first ramdisk.", size=48),
    Argument("pcr2", Kind.HEX, "Of its application's ramdisks.", size=48),
)

_ALL: Final = (
    # Members.
    Action(
        "set_member",
        "Add a member, or replace its record; it counts once it has acknowledged (`ledgerd gov ack`).",
        (
            Argument("cert", Kind.CERTIFICATE, "The member's certificate, PEM."),
            Argument("encryption_pub_key", Kind.PUBLIC_KEY, "RSA key, PEM, to which its share for recovery is encrypted.", optional=True),
            Argument("member_data", Kind.OBJECT, "What is said of the member.", optional=True),
            Argument(
                "recovery_role",
                Kind.CHOICE,
                "Holds a share, the whole key, or nothing.",
                optional=True,
                values=("Participant", "Owner", "NonParticipant"),
            ),
        ),
    ),
    Action("remove_member", "Remove a member.", (Argument("member_id", Kind.CERTIFIED, "Whom: `ledgerd gov members`."),)),
    Action(
        "set_member_data",
        "Replace what is said of a member.",
        (
            Argument("member_id", Kind.CERTIFIED, "Of whom: `ledgerd gov members`."),
            Argument("member_data", Kind.OBJECT, "An object, or null to clear it."),
        ),
    ),
    Action(
        "set_recovery_threshold",
        "Set how many members together can recover the service.",
        (Argument("recovery_threshold", Kind.WHOLE, _THRESHOLD_HELP),),
    ),
    Action("trigger_recovery_shares_refresh", "Make the shares for recovery anew; a share in wrong hands takes trigger-ledger-rekey."),
    # Users.
    Action(
        "set_user",
        "Add a user, or replace its record.",
        (
            Argument("cert", Kind.CERTIFICATE, "The user's certificate, PEM."),
            Argument("user_data", Kind.OBJECT, "What the application is told of the user.", optional=True),
        ),
    ),
    Action(
        "remove_user",
        "Remove a user, who is out at the next request.",
        (Argument("user_id", Kind.CERTIFIED, "Whom: `ledgerd gov users`."),),
    ),
    Action(
        "set_user_data",
        "Replace what is said of a user.",
        (
            Argument("user_id", Kind.CERTIFIED, "Of whom: `ledgerd gov users`."),
            Argument("user_data", Kind.OBJECT, "An object; without it, it is cleared.", optional=True),
        ),
    ),
    # The service.
    Action(
        "transition_service_to_open",
        "Open the service to users.",
        (
            Argument("next_service_identity", Kind.SERVICE, "The service's certificate, PEM; by default the service is asked."),
            Argument("previous_service_identity", Kind.CERTIFICATE, "The certificate before a disaster, PEM.", optional=True),
        ),
    ),
    Action(
        "set_constitution",
        "Replace the rules by which proposals are judged.",
        (Argument("constitution", Kind.SCRIPTS, "Files of JavaScript, which are joined."),),
    ),
    Action(
        "set_proposal_policy",
        "Set how proposals end besides by acceptance; the whole policy is replaced.",
        (
            Argument("lifetime_hours", Kind.WHOLE, "How long a proposal can be voted on; without it, for ever.", optional=True),
            Argument(
                "rejection", Kind.CHOICE, "When most say no: it is rejected, or stays open.", optional=True, values=("never", "majority")
            ),
        ),
    ),
    Action(
        "set_service_configuration",
        "Change what is given of the service's configuration.",
        (
            Argument("recovery_threshold", Kind.WHOLE, _THRESHOLD_HELP, optional=True),
            Argument("recent_cose_proposals_window_size", Kind.WHOLE, "How many proposals are kept to tell replays.", optional=True),
            Argument("reconfiguration_type", Kind.CHOICE, "There is one.", optional=True, values=("OneTransaction",)),
        ),
    ),
    Action(
        "assert_service_identity",
        "Make a proposal valid in one service only; it does nothing else.",
        (Argument("service_identity", Kind.SERVICE, "The service's certificate, PEM; by default the service is asked."),),
    ),
    Action("trigger_ledger_rekey", "Give the ledger a new secret."),
    Action("trigger_ledger_chunk", "End the ledger's current file, and begin a new one."),
    Action("trigger_snapshot", "Make a snapshot."),
    # Certificates.
    Action("set_service_certificate_validity", "Renew the service's certificate, with the same key.", _PERIOD),
    Action("set_node_certificate_validity", "Renew a node's certificate.", (_NODE, *_PERIOD)),
    Action("set_all_nodes_certificate_validity", "Renew the certificates of all nodes.", _PERIOD),
    # Nodes.
    Action("transition_node_to_trusted", "Let a node that waits (Pending) become part of the service.", (_NODE, *_PERIOD)),
    Action("remove_node", "Retire a node, or send one away that waits; `ledgerd node retire` waits until it may be stopped.", (_NODE,)),
    Action(
        "set_node_data",
        "Replace what is said of a node.",
        (_NODE, Argument("node_data", Kind.VALUE, "Anything; without it, it is cleared.", optional=True)),
    ),
    # What may join.
    Action("add_nitro_measurement", "Let enclaves of an image join.", _PCRS),
    Action("remove_nitro_measurement", "Let no more enclaves of an image join; nodes that are in stay.", _PCRS),
    Action(
        "add_nitro_root",
        "Believe attestation documents below another root than AWS's, which may be simulated.",
        (Argument("root", Kind.CERTIFICATE, "The root's certificate, PEM."),),
    ),
    Action(
        "remove_nitro_root",
        "Believe attestation documents below a root no more.",
        (Argument("root_id", Kind.CERTIFIED, "Which: `ledgerd gov policy`."),),
    ),
    Action(
        "set_minimum_version",
        "Set the oldest version of ledgerd that may join.",
        (Argument("version", Kind.TEXT, "Three numbers, such as 1.2.0."),),
    ),
    Action(
        "add_snp_measurement",
        "Let SEV-SNP guests with a measurement join.",
        (Argument("measurement", Kind.HEX, "96 hexadecimal digits.", size=48),),
    ),
    Action(
        "remove_snp_measurement",
        "Let them join no more.",
        (Argument("measurement", Kind.TEXT, "As it is accepted now: `ledgerd gov policy`."),),
    ),
    Action(
        "add_snp_host_data",
        "Let SEV-SNP guests join that enforce a container policy.",
        (
            Argument("host_data", Kind.HEX, "SHA-256 of the policy, 64 hexadecimal digits.", size=32),
            Argument("security_policy", Kind.TEXT, "The policy's text, @FILE, or an empty text."),
        ),
    ),
    Action(
        "remove_snp_host_data",
        "Let them join no more.",
        (Argument("host_data", Kind.TEXT, "As it is accepted now: `ledgerd gov policy`."),),
    ),
    Action(
        "add_snp_uvm_endorsement",
        "Let a publisher vouch for SEV-SNP guests.",
        (_DID, _FEED, Argument("svn", Kind.TEXT, "The least version number.")),
    ),
    Action("remove_snp_uvm_endorsement", "Let it vouch for them no more.", (_DID, _FEED)),
    Action(
        "set_snp_minimum_tcb_version",
        "Set the oldest firmware for a kind of processor.",
        (_CPUID, Argument("tcb_version", Kind.OBJECT, "boot_loader, tee, snp, microcode, on Turin fmc: 0 to 255 each.")),
    ),
    Action(
        "set_snp_minimum_tcb_version_hex",
        "Set the oldest firmware for a kind of processor, as AMD prints it.",
        (_CPUID, Argument("tcb_version", Kind.HEX, "16 hexadecimal digits.", size=8)),
    ),
    Action(
        "remove_snp_minimum_tcb_version",
        "Let processors of a kind join no more.",
        (Argument("cpuid", Kind.TEXT, "As it is accepted now: `ledgerd gov policy`."),),
    ),
    # The JavaScript application.
    Action(
        "set_js_app",
        "Install an application in place of the one before.",
        (
            Argument("bundle", Kind.BUNDLE, "A folder with app.json and src/, or the JSON file that tools make of one."),
            Argument("disable_bytecode_cache", Kind.FLAG, "Compile modules at every start.", optional=True),
        ),
    ),
    Action("remove_js_app", "Remove the application."),
    Action("refresh_js_app_bytecode_cache", "Compile the application's modules again."),
    Action(
        "set_js_runtime_options",
        "Set limits of the application's engine; what is left out is the default again.",
        (
            Argument("max_heap_bytes", Kind.WHOLE, "Memory.", optional=True),
            Argument("max_stack_bytes", Kind.WHOLE, "Stack.", optional=True),
            Argument("max_execution_time_ms", Kind.WHOLE, "Time for one request.", optional=True),
            Argument("log_exception_details", Kind.FLAG, "Write exceptions to the log.", optional=True),
            Argument("return_exception_details", Kind.FLAG, "Show exceptions to callers; for development.", optional=True),
            Argument("max_cached_interpreters", Kind.WHOLE, "How many interpreters are kept for reuse.", optional=True),
        ),
    ),
    # Tokens.
    Action(
        "set_jwt_issuer",
        "Accept tokens of an issuer.",
        (
            _ISSUER,
            Argument("auto_refresh", Kind.FLAG, "The service fetches the issuer's keys itself.", optional=True),
            Argument("ca_cert_bundle_name", Kind.TEXT, "Which roots vouch for the issuer's server.", optional=True),
            Argument("jwks", Kind.OBJECT, "The issuer's keys now.", optional=True),
        ),
    ),
    Action("set_jwt_public_signing_keys", "Replace the keys of an issuer.", (_ISSUER, Argument("jwks", Kind.OBJECT, "Its keys."))),
    Action("remove_jwt_issuer", "Accept tokens of an issuer no more.", (_ISSUER,)),
    Action(
        "set_ca_cert_bundle",
        "Name roots that vouch for issuers' servers.",
        (
            Argument("name", Kind.TEXT, "Under which issuers refer to them."),
            Argument("cert_bundle", Kind.CERTIFICATES, "Certificates, PEM."),
        ),
    ),
    Action("remove_ca_cert_bundle", "Forget them.", (Argument("name", Kind.TEXT, "Which."),)),
    Action(
        "cleanup_legacy_jwt_records",
        "Clear the tables in which CCF before version 5 kept keys.",
        (Argument("ensure_new_records_exist", Kind.FLAG, "Only if there are keys in the new table.", optional=True),),
    ),
)

ACTIONS: Final = {action.command: action for action in _ALL}
"""By the names of their commands, in the order in which docs/governance.md has them."""
