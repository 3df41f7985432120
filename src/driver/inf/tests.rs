use super::*;
use crate::driver::windows_version::{Architecture, ProductType, Target, WindowsVersion};

fn target(windows: &str, architecture: &str) -> Target {
    Target {
        windows: WindowsVersion::from_name(windows).unwrap(),
        architecture: Architecture::from_name(architecture).unwrap(),
    }
}

fn inf(body: &str) -> Inf {
    Inf::parse(format!("[Version]\nSignature=\"$WINDOWS NT$\"\n{body}").as_bytes()).unwrap()
}

#[test]
fn strings_are_put_in() {
    let inf = inf(
        "[s]\n%a% = %A%, 50%%, %none%, %12%\\x.sys, %24%\\y, %13%, one %b, \"%%SystemRoot%%\\%a%\"\n\
                   [Strings]\na=\"text\"\n[strings.0407]\nA=Wort\n[Strings.0009]\na=word",
    );
    let line = inf.section("S").unwrap().lines().next().unwrap();
    assert_eq!(line.key().unwrap(), "text");
    let texts: Vec<_> = line.texts().collect();
    let drivers = "%SystemRoot%\\System32\\drivers\\x.sys";
    let expected = [
        "text",
        "50%",
        "%none%",
        drivers,
        "%SystemDrive%\\y",
        "%13%",
        "one %b",
        "%SystemRoot%\\text",
    ];
    assert_eq!(texts, expected);
    assert!(inf.section("s").unwrap().find("TEXT").is_some());
    for (language, expected) in [(0x407, "Wort"), (0x807, "Wort"), (0x409, "word"), (0x40c, "text")] {
        let inf = inf.clone().in_language(language).unwrap();
        let line = inf.section("s").unwrap().lines().next().unwrap();
        assert_eq!(line.text(1).unwrap(), expected, "{language:x}");
    }
}

#[test]
fn what_windows_refuses_is_refused() {
    assert_eq!(
        Inf::parse(b"[Version]\nSignature=x").unwrap_err(),
        InfError::NoSignature
    );
    assert_eq!(Inf::parse(b"").unwrap_err(), InfError::NoSignature);
    let long = format!(
        "[Version]\nSignature=$CHICAGO$\n[s]\nx=%a%%a%\n[Strings]\na={}",
        "y".repeat(3000)
    );
    assert!(matches!(
        Inf::parse(long.as_bytes()),
        Err(InfError::LongText { line: 4, .. })
    ));
    assert!(matches!(
        Inf::parse(&vec![b' '; LARGEST_INF + 1]),
        Err(InfError::TooLarge { .. })
    ));
}

#[test]
fn the_version_is_read() {
    let inf = inf(
        "Class=SCSIAdapter\nClassGuid = {4D36E97B-E325-11CE-BFC1-08002BE10318}\nProvider=%P%\n\
                   DriverVer=07/25/2018,60.76.104.15800\nCatalogFile=a.cat\nCatalogFile.NTamd64=b.cat\nPnpLockdown=1\n[Strings]\nP=\"Red Hat, Inc.\"",
    );
    let version = inf.version();
    assert_eq!(version.provider.as_deref(), Some("Red Hat, Inc."));
    assert_eq!(
        version.class_guid.unwrap().to_string(),
        "4d36e97b-e325-11ce-bfc1-08002be10318"
    );
    let driver = version.driver.unwrap();
    assert_eq!(driver.to_string(), "60.76.104.15800 of 2018-07-25");
    assert_eq!(driver.packed(), 0x003c_004c_0068_3db8);
    // 2018-07-25 is 17737 days after 1970-01-01, which is 134774 days after 1601-01-01.
    assert_eq!(driver.file_time(), (134_774 + 17_737) * 864_000_000_000);
    assert_eq!(version.catalog(&target("7", "amd64")), Some("b.cat"));
    assert_eq!(version.catalog(&target("7", "x86")), Some("a.cat"));
    assert!(version.pnp_lockdown);
}

#[test]
fn the_nearest_models_are_taken() {
    let names = [
        "NTx86",
        "NTx86.5.1",
        "NTx86.6.0...",
        "NT.6.1",
        "NTamd64.6.1",
        "NTamd64.6.1.3",
        "NTamd64.10.0...14393",
        "NTamd64.10.0...17763",
        "NTamd64.10.0.3..17763",
        "NTamd64.6.1..0x80",
        "NTarm64.10.0",
    ];
    let mut body = format!("[Manufacturer]\n%m%=m, {}\n[m]\nnone=i,id\n", names.join(", "));
    for name in names {
        body += &format!("[m.{name}]\n{name}=i,id\n");
    }
    let inf = inf(&body);
    for (windows, architecture, expected) in [
        ("2000", "x86", "NTx86"),
        ("xp", "x86", "NTx86.5.1"),
        ("vista", "x86", "NTx86.6.0..."),
        ("7", "x86", "NT.6.1"),
        ("7", "amd64", "NTamd64.6.1"),
        ("2008r2", "amd64", "NTamd64.6.1.3"),
        ("8.1", "amd64", "NTamd64.6.1"),
        ("10.0.10240", "amd64", "NTamd64.6.1"),
        ("10.0.14393", "amd64", "NTamd64.10.0...14393"),
        ("2016", "amd64", "NTamd64.10.0...14393"),
        ("10", "amd64", "NTamd64.10.0...17763"),
        ("2022", "amd64", "NTamd64.10.0.3..17763"),
        ("11", "arm64", "NTarm64.10.0"),
    ] {
        let models = inf.models(&target(windows, architecture)).unwrap();
        assert_eq!(models[0].description, expected, "{windows} {architecture}");
    }
    // The x64 edition of XP came with the rule that its sections must be decorated.
    assert_eq!(inf.models(&target("xp64", "amd64")).unwrap(), []);
    let mut datacenter = target("7", "amd64");
    datacenter.windows.suites = 0x80;
    assert_eq!(
        inf.models(&datacenter).unwrap()[0].description,
        "NTamd64.6.1..0x80"
    );
    assert_eq!(inf.all_models().unwrap().len(), names.len() + 1);
    let shown: Vec<String> = inf.decorations().iter().map(Decoration::to_string).collect();
    assert!(
        shown.contains(&"NTamd64.10.0.3..17763".to_owned())
            && shown.contains(&"NTamd64.6.1..0x80".to_owned())
    );
}

#[test]
fn a_version_counts_more_than_a_suite_and_an_empty_section_excludes() {
    let named = inf(
        "[Manufacturer]\nm=m,NT,NT.5,NT.5.5,NT....0x80\n[m.NT]\nd=i,a\n[m.NT.5]\nd=i,b\n[m.NT....0x80]\nd=i,c",
    );
    let mut xp = target("xp", "x86");
    xp.windows.suites = 0x80;
    assert_eq!(named.models(&xp).unwrap()[0].ids, ["B"]);
    let excluded =
        inf("[Manufacturer]\nm=m,NTx86.6.0,NTx86.5.1,\n[m.NTx86.5.1]\nd=i,b\n[m.NTx86.6.0]\n[m]\nd=i,c");
    assert_eq!(excluded.models(&target("7", "x86")).unwrap(), []);
    assert_eq!(excluded.models(&target("xp", "x86")).unwrap()[0].ids, ["B"]);
    assert_eq!(excluded.models(&target("2000", "x86")).unwrap()[0].ids, ["C"]);
}

const VIOSTOR: &str = "
[SourceDisksNames.amd64]
1 = %d%,viostor.cab,,\\drv
2 = other,,,
[SourceDisksFiles]
viostor.sys = 2,wrong
extra.dll = 2,\\sub\\x
[SourceDisksFiles.amd64]
VIOSTOR.SYS = 1,\\amd64
[DestinationDirs]
DefaultDestDir = 13
files = 12,deep
[files]
viostor.sys,,,2
new.dll, extra.dll
..\\bad.sys
[inst.NTamd64]
CopyFiles = files, @extra.dll, nothere
Include = machine.inf
Needs = PCI_DRV, more
FeatureScore = 0xFD
DelFiles = old
AddReg = reg
[inst.NT]
[more]
AddReg = two
[two]
HKR, Sub\\, \"\", 0x00010000, a, b,
[old]
x.sys
[reg]
HKR,,text,,\"a,b\"
HKR,k,exp,0x20000,%%SystemRoot%%\\x
HKR,k,dw,%D%,0x10
HKR,k,dw4,0x10001,1,2,0,0
HKR,k,bin,1,de,0xad
HKR,k,none,0x20001
HKR,k,qword,0xb0001,1,0,0,0,0,0,0,1
HKR,k,more,0x00010008,c
HKR,only,,0x10
HKLM,gone,v,4
HKR,k,m,0x18002,c
HKQ,k
HKR,k,bad,1,zz
[inst.NTamd64.HW]
DelReg=del
[del]
HKR,k,v
HKR,whole
[inst.NTamd64.Services]
AddService = viostor, 0x3, svc, ev, Application, Source
AddService = ,2
DelService = oldsvc,4
[svc]
ServiceType=1
StartType=0
ErrorControl=%D%
ServiceBinary=%12%\\viostor.sys
LoadOrderGroup=SCSI miniport
Dependencies = a, +b
AddReg = two
[ev]
AddReg = two
[Strings]
D = 0x00010001
";

#[test]
fn an_installation_is_whole() {
    let inf = inf(VIOSTOR);
    let installation = inf.installation("INST", &target("10", "amd64")).unwrap().unwrap();
    assert_eq!(installation.section, "inst.NTamd64");
    let copies: Vec<_> = installation
        .copies
        .iter()
        .map(|copy| {
            let source = &copy.source;
            let to = &copy.destination;
            let cabinet = source.cabinet.clone().unwrap_or_default();
            format!(
                "{}/{}<{cabinet} {}:{}/{} {}",
                source.folder.join("/"),
                source.name,
                to.directory,
                to.folder.join("/"),
                to.name,
                copy.flags
            )
        })
        .collect();
    assert_eq!(
        copies,
        [
            "drv/amd64/viostor.sys<viostor.cab 12:deep/viostor.sys 2",
            "sub/x/extra.dll< 12:deep/new.dll 0",
            "sub/x/extra.dll< 13:/extra.dll 0",
        ]
    );
    assert_eq!(
        (installation.includes, installation.needs),
        (vec!["machine.inf".to_owned()], vec!["PCI_DRV".to_owned()])
    );
    assert_eq!(installation.feature_score, Some(0xfd));
    assert_eq!(installation.deletes[0].name, "x.sys");
    let data: Vec<_> = installation
        .registry
        .iter()
        .map(|change| change.action.clone())
        .collect();
    let set = RegistryAction::Set;
    let bytes = |kind, bytes: &[u8]| {
        set(RegistryData::Bytes {
            kind,
            bytes: bytes.to_vec(),
        })
    };
    assert_eq!(
        data,
        [
            set(RegistryData::Text("a,b".into())),
            set(RegistryData::ExpandedText("%SystemRoot%\\x".into())),
            set(RegistryData::Number(16)),
            set(RegistryData::Number(0x201)),
            bytes(3, &[0xde, 0xad]),
            bytes(0, &[]),
            bytes(11, &[1, 0, 0, 0, 0, 0, 0, 1]),
            RegistryAction::Append(vec!["c".into()]),
            RegistryAction::MakeKey,
            RegistryAction::DeleteValue,
            RegistryAction::DeleteText("c".into()),
            set(RegistryData::Texts(vec!["a".into(), "b".into()])),
        ]
    );
    let last = installation.registry.last().unwrap();
    assert_eq!((last.key.as_str(), last.value.as_deref()), ("Sub", Some("")));
    let hardware: Vec<_> = installation
        .hardware
        .iter()
        .map(|change| &change.action)
        .collect();
    assert_eq!(
        hardware,
        [&RegistryAction::DeleteValue, &RegistryAction::DeleteKey]
    );
    let [service, none] = installation.services.as_slice() else {
        panic!("{:?}", installation.services);
    };
    assert!(service.is_of_the_device() && service.is_first_in_group() && none.is_of_the_device());
    assert_eq!(service.image_path().unwrap(), "System32\\drivers\\viostor.sys");
    assert_eq!(
        (service.start_type, service.error_control),
        (Some(0), Some(0x10001))
    );
    assert_eq!(service.dependencies, ["a", "+b"]);
    let events = service.event_log.as_ref().unwrap();
    assert_eq!(
        (events.log.as_str(), events.name.as_str(), events.registry.len()),
        ("Application", "Source", 1)
    );
    assert_eq!(installation.removed_services, ["oldsvc"]);
    for complaint in ["..\\\\bad.sys", "[nothere]", "HKQ", "\"zz\""] {
        assert!(
            installation
                .problems
                .iter()
                .any(|problem| problem.contains(complaint)),
            "{complaint}: {:?}",
            installation.problems
        );
    }
    assert_eq!(
        inf.installation("inst", &target("xp", "x86"))
            .unwrap()
            .unwrap()
            .section,
        "inst.NT"
    );
    assert_eq!(inf.installation("none", &target("xp", "x86")).unwrap(), None);
}

#[test]
fn installations_have_versions_from_windows_11_on() {
    let inf = inf("[i.NTamd64.10.0...25952]\n[i.NT]\n[i.NTx86.10.0...25952]\n[i.NTamd64.10.0...99999]");
    let section = |build| {
        let windows = WindowsVersion::new(10, 0, build, ProductType::Workstation);
        let target = Target {
            windows,
            architecture: Architecture::Amd64,
        };
        inf.install_section("i", &target).unwrap().name().to_owned()
    };
    assert_eq!(section(22631), "i.NT");
    assert_eq!(section(26100), "i.NTamd64.10.0...25952");
}

#[test]
fn what_a_small_file_gives_is_bounded() {
    let many: String = (0..20_000).map(|n| format!("m{n}=m\n")).collect();
    let lines: String = (0..20_000).map(|n| format!("d{n}=i,id{n}\n")).collect();
    let inf = inf(&format!("[Manufacturer]\n{many}[m]\n{lines}"));
    assert!(matches!(
        inf.models(&target("7", "x86")),
        Err(InfError::TooMuch { .. })
    ));
    assert!(matches!(inf.all_models(), Err(InfError::TooMuch { .. })));
}

#[test]
fn numbers_are_read_as_setupapi_reads_them() {
    for (text, expected) in [
        ("0x10", Some(16)),
        ("010", Some(10)),
        ("-1", Some(-1)),
        (" 7 ", Some(7)),
        ("", None),
        ("7a", None),
        ("--1", None),
        ("+-1", None),
        ("0x", None),
    ] {
        assert_eq!(integer(text), expected, "{text:?}");
    }
    assert_eq!(flags(Some("-1".into())), Some(u32::MAX));
    assert_eq!(flags(Some("0x100000000".into())), None);
}
