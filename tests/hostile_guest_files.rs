//! Configuration files of a guest are hostile input: whatever is in them, reading ends without a panic and within its
//! limits. Files as they are written, cut and spliced at random.

#![allow(clippy::indexing_slicing)]

use proptest::prelude::*;
use rehome::guest::{
    fstab,
    grub_config::{self, GrubEnvironment},
    grub_environment,
    network_linux::{ifupdown, netplan},
    os_release,
};

const GRUB: &str = "load_env\nif [ \"${next_entry}\" ] ; then\n set default=\"${next_entry}\"\nelse set default=\"1>0\"; fi\n\
    function f { if [ -z \"$a\" -o ! $b = c ]; then d; fi\n}\nset a=\"$a${a}x\\\"\"\nmenuentry 'One \\' $menuentry_id_option 'id' {\n\
    \tsearch --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 aa\n\tlinux\t($root)/boot/vmlinuz $a ro\n\tinitrd a b\n}\n\
    submenu 'Two' --class x {\n menuentry \"$a\" --id=y { linux16 /v root=/dev/sda1 # c\n }\n}\nfor i in a; do b; done\n";
const NETPLAN: &str = "network:\n  version: 2\n  ethernets:\n    eth0: &a\n      match: {macaddress: '52:54:00:AB:00:01', name: \"en*\"}\n\
    \x20     set-name: eth0\n      addresses:\n      - 192.0.2.1/24\n      - \"2001:db8::1/64\": {label: x}\n      dhcp4: yes\n\
    \x20 bridges: {br0: {interfaces: [eth0]}}\n---\n? |+2\n  x\n: !!str y\n";
const INTERFACES: &str = "auto lo eth0\nsource /a/*\nallow-hotplug /en*\niface eth0 inet static\n address 192.0.2.1\n netmask 255.0.0.0\n \
    bridge_ports a \\\n b\nmapping x\n script y\niface eth0 inet6 auto\n";
const FSTAB: &str =
    "# c\nUUID=ab / ext4 errors=remount-ro 0 1\n/dev/sda1 /my\\040data\\ xfs\nLABEL=\"a\" none swap sw\n";
const OS_RELEASE: &str = "ID=debian\nPRETTY_NAME=\"Debian \\\"x\\\" \\$ 12\"\nID_LIKE='a b'\nVERSION_ID=\n";

/// `text` with pieces of itself and of noise put over it.
fn spliced(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let noise = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12),
        Just(b"\n".to_vec()),
        Just(b"{".to_vec()),
        Just(b"}\n".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\".to_vec()),
        Just(b"$".to_vec()),
        Just(b"if [ ".to_vec()),
        Just(b"]; then ".to_vec()),
        Just(b"[[[".to_vec()),
        Just(b": ".to_vec()),
        (0..text.len(), 0..60_usize).prop_map(move |(at, length)| {
            let bytes = text.as_bytes();
            bytes[at..(at + length).min(bytes.len())].to_vec()
        }),
    ];
    let splice = (any::<proptest::sample::Index>(), 0..40_usize, noise);
    proptest::collection::vec(splice, 1..20).prop_map(move |splices| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, length, new) in splices {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, new);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grub_configurations(script in spliced(GRUB), block in spliced("# GRUB Environment Block\nnext_entry=1>0\n###")) {
        let environment = GrubEnvironment {
            platform: "pc".into(),
            prefix: "/boot/grub".into(),
            saved: grub_environment::parse(&block),
        };
        let config = grub_config::parse(&script, &environment);
        prop_assert!(config.default.is_none_or(|default| default < config.entries.len()));
        let lines = script.split(|byte| *byte == b'\n').count();
        prop_assert!(config.entries.iter().all(|entry| (1..=lines).contains(&(entry.line as usize))));
    }

    #[test]
    fn netplan_files(contents in spliced(NETPLAN)) {
        for definition in netplan::parse(&contents).unwrap_or_default().definitions {
            prop_assert!(definition.line > 0);
        }
    }

    #[test]
    fn interfaces_files(contents in spliced(INTERFACES)) {
        let lines = contents.split(|byte| *byte == b'\n').count();
        for stanza in ifupdown::parse(&contents).stanzas {
            prop_assert!((1..=lines).contains(&(stanza.line as usize)));
        }
    }

    #[test]
    fn fstabs_and_releases(fstab_text in spliced(FSTAB), release in spliced(OS_RELEASE)) {
        let lines = fstab_text.split(|byte| *byte == b'\n').count();
        for entry in fstab::parse(&fstab_text) {
            prop_assert!((1..=lines).contains(&(entry.line as usize)));
        }
        prop_assert!(!os_release::parse(&release).id.contains('\n'));
    }
}

/// Within seconds, whatever the size: nothing here is quadratic or unbounded.
#[test]
fn large_files_end_soon() {
    let repeated = |text: &str| text.repeat((2 << 20) / text.len()).into_bytes();
    for text in [
        "a\n",
        "if a; then\n",
        "menuentry x {\n",
        "submenu x {\nmenuentry y {\nlinux z\n}\n}\n",
        "set a=$a$a\n",
        "\\\n",
        "'",
        "{",
    ] {
        grub_config::parse(&repeated(text), &GrubEnvironment::default());
    }
    for text in ["iface a\n", "auto a\n", "source /*\n", "\\\n"] {
        ifupdown::parse(&repeated(text));
    }
    for text in ["a b\n", "\\040 ", "UUID=a /\n"] {
        assert!(fstab::parse(&repeated(text)).len() <= 4096);
    }
    for text in ["a: ", "- ", "a: b\n", "[", "{a: [", "'"] {
        let _ = netplan::parse(repeated(text).get(..1 << 20).unwrap_or_default());
    }
}
