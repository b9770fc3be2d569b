//! Names of places in a vision tower.

use std::collections::BTreeSet;

use haul_jobs::vision::sites::{Site, Sites, SitesError};

fn sites(name: &str, blocks: u32) -> Vec<String> {
    let set: Sites = name.parse().unwrap();
    assert_eq!(set.to_string(), name);
    set.of(blocks).unwrap().iter().map(Site::to_string).collect()
}

#[test]
fn sets_are_what_their_names_say() {
    assert_eq!(sites("uniform", 12).len(), 72);
    assert_eq!(sites("mlp", 12).len(), 24);
    assert_eq!(sites("attention", 12).len(), 48);
    assert_eq!(sites("c_proj", 2), ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]);
    assert_eq!(sites("late-3", 12), ["blocks.9.mlp.fc2", "blocks.10.mlp.fc2", "blocks.11.mlp.fc2"]);
    assert_eq!(sites("blocks.3.attn.out_proj", 4), ["blocks.3.attn.out_proj"]);
    assert_eq!(
        sites("uniform", 1),
        ["q_proj", "k_proj", "v_proj", "out_proj"]
            .map(|name| format!("blocks.0.attn.{name}"))
            .into_iter()
            .chain(["blocks.0.mlp.fc1".to_owned(), "blocks.0.mlp.fc2".to_owned()])
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_site_has_one_number_in_every_set() {
    let all = Sites::Uniform.of(40).unwrap();
    let numbers: BTreeSet<u32> = all.iter().map(|site| site.number()).collect();
    assert_eq!(numbers.len(), all.len());
    let late = Sites::Late(1).of(12).unwrap();
    let alone: Sites = "blocks.11.mlp.fc2".parse().unwrap();
    assert_eq!(late[0].number(), alone.of(40).unwrap()[0].number());
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for name in [
        "",
        "all",
        "late-0",
        "late-",
        "late-+3",
        "blocks.03.mlp.fc2",
        "blocks.3.mlp.fc3",
        "blocks.9999.mlp.fc1",
    ] {
        let error = name.parse::<Sites>().unwrap_err();
        assert_eq!(error, SitesError::Unknown { name: name.to_owned() });
    }
    assert_eq!(
        Sites::Late(13).of(12).unwrap_err().to_string(),
        "`late-13` asks for blocks that are not there: the tower has 12"
    );
    assert!("blocks.12.mlp.fc1".parse::<Sites>().unwrap().of(12).is_err());
}
