//! The processor's name, from `/proc/cpuinfo`.

/// `None` where there is no such file or line: other systems, other architectures.
pub(crate) fn model_name() -> Option<String> {
    parse_model_name(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::parse_model_name;

    #[test]
    fn the_first_named_processor_counts() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD  EPYC 9655 \nmodel name\t: other\n";
        assert_eq!(parse_model_name(cpuinfo).as_deref(), Some("AMD EPYC 9655"));
        assert_eq!(parse_model_name("processor\t: 0\nBogoMIPS\t: 50\n"), None);
        assert_eq!(parse_model_name("model name\t:  \n"), None);
    }
}
