use super::*;

/// A descriptor with these parts, in the namespaces that VMware's tools write.
fn envelope(references: &str, disks: &str, hardware: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- written by hand -->
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References>{references}</References>
  <DiskSection><Info/>{disks}</DiskSection>
  <VirtualSystem ovf:id="vm"><Info/><Name>web 1</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><Info/></OperatingSystemSection>
    <VirtualHardwareSection><Info/>
      <System><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>
      {hardware}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

fn item(kind: u32, id: u32, more: &str) -> String {
    format!(
        "<Item><rasd:InstanceID>{id}</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>{more}</Item>"
    )
}

fn disk_item(id: u32, parent: u32, address: u32, disk: &str) -> String {
    item(
        17,
        id,
        &format!(
            "<rasd:AddressOnParent>{address}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource>\
             <rasd:Parent>{parent}</rasd:Parent>"
        ),
    )
}

fn parse(text: &str) -> Result<Descriptor, Flaw> {
    Descriptor::parse(text.as_bytes())
}

const THREE_FILES: &str = r#"<File ovf:href="a.vmdk" ovf:id="f1" ovf:size="100"/>
    <File ovf:href="b.vmdk" ovf:id="f2" ovf:compression="gzip" ovf:chunkSize="7"/>
    <File ovf:href="c.iso" ovf:id="f3" ovf:compression="identity" ovf:chunkSize="0"/>"#;
const TWO_DISKS: &str = r#"<Disk ovf:capacity="3" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d1" ovf:fileRef="f1"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
    <Disk ovf:capacity="4096" ovf:diskId="d2" ovf:fileRef="f2"/>
    <Disk ovf:capacity="${size}" ovf:diskId="d3" ovf:fileRef="f1"/>
    <Disk ovf:capacity="512" ovf:diskId="d4"/>"#;

#[test]
fn disks_come_in_the_order_of_the_hardware() {
    let hardware = [
        item(5, 3, "<rasd:Address>1</rasd:Address>"),
        item(6, 4, "<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>"),
        disk_item(10, 4, 1, "d2"),
        disk_item(11, 4, 0, "d1"),
        disk_item(12, 3, 0, "d4"),
        disk_item(13, 99, 0, "d3"),
    ];
    let descriptor = parse(&envelope(THREE_FILES, TWO_DISKS, &hardware.concat())).unwrap();
    let order: Vec<&str> = descriptor.disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(order, ["d4", "d1", "d2", "d3"]);
    let first = &descriptor.disks[1];
    assert_eq!((first.capacity, first.file), (Some(3 << 30), Some(0)));
    assert_eq!(descriptor.disks[2].capacity, Some(4096));
    assert_eq!(descriptor.disks[3].capacity, None);
    assert_eq!(descriptor.disks[0].file, None);
    assert_eq!(descriptor.files[1].compression.as_deref(), Some("gzip"));
    assert_eq!(descriptor.files[1].chunk_size, Some(7));
    assert_eq!(
        (&descriptor.files[2].compression, descriptor.files[2].chunk_size),
        (&None, None)
    );

    // Without hardware for them, as they are listed.
    let descriptor = parse(&envelope(THREE_FILES, TWO_DISKS, "")).unwrap();
    let order: Vec<&str> = descriptor.disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(order, ["d1", "d2", "d3", "d4"]);
}

#[test]
fn the_machine_is_read_as_vmware_and_virtualbox_describe_it() {
    let hardware = [
        item(3, 1, "<rasd:VirtualQuantity>4</rasd:VirtualQuantity>"),
        item(
            4,
            2,
            "<rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits><rasd:VirtualQuantity>8</rasd:VirtualQuantity>",
        ),
        item(6, 3, "<rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>"),
        item(20, 4, "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType>"),
        item(
            20,
            5,
            "<rasd:ResourceSubType>vmware.nvme.controller</rasd:ResourceSubType>",
        ),
        item(
            10,
            6,
            "<rasd:Address>00:50:56:01:02:03</rasd:Address><rasd:Connection>VM Network</rasd:Connection>\
             <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>",
        ),
        r#"<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="EFI"/>"#.to_owned(),
    ];
    let hardware = parse(&envelope(THREE_FILES, TWO_DISKS, &hardware.concat()))
        .unwrap()
        .hardware;
    assert_eq!(
        hardware.to_string(),
        "\"web 1\", vmx-13, debian12_64Guest, efi, processors: 4, memory: 8192 MiB, scsi VirtualSCSI, sata AHCI, \
         nvme vmware.nvme.controller, adapter VmxNet3 00:50:56:01:02:03"
    );
    let other = envelope("", "", "").replace(
        "</VirtualSystem>",
        r#"<vbox:Machine><Hardware><Firmware type="EFI64"/></Hardware></vbox:Machine></VirtualSystem>"#,
    );
    assert_eq!(parse(&other).unwrap().hardware.firmware.as_deref(), Some("efi"));
    assert_eq!(parse(&envelope("", "", "")).unwrap().hardware.firmware, None);
}

#[test]
fn version_2_has_items_of_its_own() {
    let storage = r#"<StorageItem xmlns:sasd="s"><sasd:InstanceID>9</sasd:InstanceID>
        <sasd:ResourceType>17</sasd:ResourceType><sasd:HostResource>/disk/d2</sasd:HostResource></StorageItem>"#;
    let port =
        r#"<EthernetPortItem xmlns:epasd="e"><epasd:ResourceType>10</epasd:ResourceType></EthernetPortItem>"#;
    let descriptor = parse(&envelope(THREE_FILES, TWO_DISKS, &format!("{storage}{port}"))).unwrap();
    assert_eq!(descriptor.disks.len(), 1);
    assert_eq!(descriptor.disks[0].id, "d2");
    assert_eq!(descriptor.hardware.adapters.len(), 1);
}

#[test]
fn ranges_and_other_configurations_are_not_the_machine() {
    let memory = |count: u32, attributes: &str| {
        item(
            4,
            count,
            &format!("<rasd:VirtualQuantity>{count}</rasd:VirtualQuantity>"),
        )
        .replace("<Item>", &format!("<Item {attributes}>"))
    };
    let hardware = [
        memory(100, r#"ovf:configuration="small""#),
        memory(200, r#"ovf:configuration="large huge""#),
        memory(300, r#"ovf:bound="max""#),
    ];
    let plain = envelope("", "", &hardware.concat());
    let options = r#"<DeploymentOptionSection><Configuration ovf:id="small"/>
        <Configuration ovf:id="huge" ovf:default="true"/></DeploymentOptionSection><VirtualSystem"#;
    let chosen = plain.replace("<VirtualSystem ", &format!("{options} "));
    let memory = |text: &str| parse(text).unwrap().hardware.memory.map(|bytes| bytes >> 20);
    assert_eq!(memory(&chosen), Some(200));
    assert_eq!(memory(&chosen.replace(r#"ovf:default="true""#, "")), Some(100));
    assert_eq!(memory(&plain), None);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let ok = envelope(THREE_FILES, TWO_DISKS, "");
    let two = ok.replace(
        "</Envelope>",
        r#"<VirtualSystem ovf:id="db"><Info/></VirtualSystem></Envelope>"#,
    );
    let bomb = format!(
        "<!DOCTYPE x [<!ENTITY a \"b\">]>{}",
        ok.trim_start_matches(|c| c != '>')
    );
    for (text, expected) in [
        (two.as_str(), "describes 2 virtual machines (web 1, db)"),
        ("<Domain/>", "outermost element is \"Domain\""),
        ("<Envelope/>", "describes no virtual machine"),
        ("<Envelope>", "no XML that is understood"),
        ("", "no XML that is understood"),
        (&bomb, "no XML that is understood"),
        (&"<a>".repeat(300_000), "no XML that is understood"),
        (
            &ok.replace("fileRef=\"f2\"", "fileRef=\"f9\""),
            "refers to the file \"f9\"",
        ),
        (
            &ok.replace("ovf:diskId=\"d2\"", "ovf:diskId=\"d2\" ovf:parentRef=\"d1\""),
            "only changes to the disk \"d1\"",
        ),
        (
            &ok.replace("capacity=\"512\"", "x=\"512\""),
            "without a file and without a size",
        ),
        (
            &ok.replace("capacity=\"4096\"", "capacity=\"4k\""),
            "that is no number of bytes: \"4k\"",
        ),
        (
            &ok.replace("2^30", "2^64"),
            "that is no number of bytes: \"3 byte * 2^64\"",
        ),
        (
            &ok.replace("size=\"100\"", "size=\"-1\""),
            "that is no number of bytes: \"-1\"",
        ),
        (
            &envelope(THREE_FILES, TWO_DISKS, &disk_item(1, 1, 1, "d9")),
            "refers to the disk \"d9\"",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(Descriptor::parse(b"\xff\xfe<\0"), Err(Flaw::Encoding));
}
