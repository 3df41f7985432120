//! Menus as they are written, and hostile ones.

use super::*;

/// What `grub-mkconfig` of Debian 12 writes, with the parts left out that only draw the menu.
const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  fi
}
if loadfont unicode ; then
  set gfxmode=auto
fi
function gfxmode {
	set gfxpayload="${1}"
}
set linux_gfx_mode=
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-aa' {
	load_video
	gfxmode $linux_gfx_mode
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod part_msdos
	set root='hd0,msdos1'
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 --hint-efi=hd0,msdos1  aa
	else
	  search --no-floppy --fs-uuid --set=root aa
	fi
	echo	'Loading Linux 6.1.0-28-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 ro  quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-28-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-aa' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-28-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-28-amd64-advanced-aa' {
		set root='hd0,msdos1'
		linux	/boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 ro  quiet
		initrd	/boot/early.cpio /boot/initrd.img-6.1.0-28-amd64
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-27-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-27-amd64-advanced-aa' {
		search --label --set=root boot
		linux	/vmlinuz-6.1.0-27-amd64 root=/dev/sda1 ro single
		initrd	/initrd.img-6.1.0-27-amd64
	}
}
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
		fwsetup
	}
fi
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"#;

fn environment(saved: &[(&str, &str)]) -> GrubEnvironment {
    GrubEnvironment {
        platform: "pc".into(),
        prefix: "/boot/grub".into(),
        saved: Some(saved.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()),
    }
}

fn default_of(text: &str, saved: &[(&str, &str)]) -> String {
    let config = parse(text.as_bytes(), &environment(saved));
    config.entries[config.default.unwrap()].title.clone()
}

#[test]
fn what_debian_writes() {
    let config = parse(DEBIAN.as_bytes(), &environment(&[]));
    assert_eq!(config.problems, [""; 0]);
    assert_eq!(config.entries.len(), 3);
    assert_eq!(config.default, Some(0));
    let entry = &config.entries[0];
    let line = DEBIAN.lines().position(|l| l.starts_with("menuentry")).unwrap() as u32 + 1;
    assert_eq!((&*entry.title, entry.line), ("Debian GNU/Linux", line));
    assert_eq!(entry.id.as_deref(), Some("gnulinux-simple-aa"));
    assert_eq!(entry.options, b"root=/dev/sda1 ro  quiet");
    let file = |device, path: &str| GrubFile {
        device,
        path: path.into(),
    };
    let uuid = GrubDevice::Uuid("aa".into());
    assert_eq!(entry.kernel, Some(file(uuid, "/boot/vmlinuz-6.1.0-28-amd64")));
    assert_eq!(config.entries[1].initramfs.len(), 2);
    let disk = GrubDevice::Disk("hd0,msdos1".into());
    assert_eq!(config.entries[1].initramfs[0], file(disk, "/boot/early.cpio"));
    assert_eq!(
        config.entries[2].submenus,
        ["Advanced options for Debian GNU/Linux"]
    );
    let label = GrubDevice::Label("boot".into());
    assert_eq!(
        config.entries[2].kernel,
        Some(file(label, "/vmlinuz-6.1.0-27-amd64"))
    );
    assert_eq!(config.sources.len(), 1);
    let mut efi = environment(&[]);
    efi.platform = "efi".into();
    assert_eq!(parse(DEBIAN.as_bytes(), &efi).entries.len(), 4);
}

#[test]
fn the_entry_that_starts() {
    let second = "Debian GNU/Linux, with Linux 6.1.0-27-amd64";
    for next in [
        "1>1",
        "gnulinux-advanced-aa>gnulinux-6.1.0-27-amd64-advanced-aa",
        "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-27-amd64",
    ] {
        assert_eq!(default_of(DEBIAN, &[("next_entry", next)]), second, "{next}");
    }
    let first = "Debian GNU/Linux";
    for next in ["", "0", "9", "no such entry", "0>5"] {
        assert_eq!(default_of(DEBIAN, &[("next_entry", next)]), first, "{next}");
    }
    // A submenu alone: its first entry.
    let in_submenu = "Debian GNU/Linux, with Linux 6.1.0-28-amd64";
    assert_eq!(default_of(DEBIAN, &[("next_entry", "1")]), in_submenu);
    let saved = DEBIAN.replace("set default=\"0\"", "set default=\"${saved_entry}\"");
    assert_eq!(default_of(&saved, &[("saved_entry", "1>1")]), second);
    let odd = "set default='a > b'\nmenuentry x {\n}\nmenuentry 'a >> b' {\n}\nmenuentry 'a > b' {\n}";
    assert_eq!(
        default_of(&odd.replace("'a > b'\nm", "'a >> b'\nm"), &[]),
        "a > b"
    );
}

#[test]
fn the_stub_on_an_efi_system_partition() {
    let stub =
        b"search.fs_uuid 0a1b root hd0,gpt2 \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";
    let config = parse(stub, &GrubEnvironment::default());
    let expected = GrubFile {
        device: GrubDevice::Uuid("0a1b".into()),
        path: b"/boot/grub/grub.cfg".to_vec(),
    };
    assert_eq!(config.hands_over_to, Some(expected));
}

#[test]
fn hostile_configurations_end() {
    let mut bomb = String::from("set a=xxxxxxxx\n");
    for _ in 0..100 {
        bomb.push_str("set a=\"$a$a$a$a\"\n");
    }
    bomb.push_str(&"submenu x {\n".repeat(50));
    bomb.push_str(&"menuentry \"$a\" {\nlinux $a $a $a\n}\n".repeat(10_000));
    let config = parse(bomb.as_bytes(), &environment(&[]));
    assert!(config.entries.len() <= MAX_ENTRIES);
    let nested = "if [ $a ]; then\n".repeat(1000);
    parse(nested.as_bytes(), &environment(&[("a", "1")]));
}

#[test]
fn configurations_of_real_machines() {
    let Ok(samples) = std::env::var("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES names no folder of samples");
        return;
    };
    let read = |path: String| std::fs::read(format!("{samples}/guests/{path}")).unwrap();
    let mut seen = 0;
    for number in 1..=25 {
        let path = format!("{samples}/guests/grubby/grub2.{number}");
        let Ok(contents) = std::fs::read(&path) else {
            continue;
        };
        let config = parse(&contents, &environment(&[]));
        assert_eq!(config.problems, [""; 0], "{path}");
        assert!(!config.entries.is_empty(), "{path}");
        let written = contents
            .split(|byte| *byte == b'\n')
            .filter(|line| line.trim_ascii().starts_with(b"menuentry "))
            .count();
        assert_eq!(config.entries.len(), written, "{path}");
        for entry in &config.entries {
            assert!(
                entry.kernel.is_some() && !entry.options.is_empty(),
                "{path}: {entry:?}"
            );
        }
        seen += 1;
    }
    assert!(seen > 15, "only {seen} configurations");
    let leapp = parse(&read("leapp/files/valid_grub.cfg".into()), &environment(&[]));
    assert!(leapp.boot_loader_specification && leapp.entries.is_empty());
    parse(&read("leapp/files/invalid_grub.cfg".into()), &environment(&[]));
}
