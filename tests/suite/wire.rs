//! The page of the wire protocol says of the scripts what they say themselves.

const PAGE: &str = include_str!("../../src/docs/wire.md");

macro_rules! scripts {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../src/scripts/", $name, ".lua")))),*]
    };
}

#[test]
fn the_page_has_each_script_as_its_header_describes_it() {
    let scripts = scripts![
        "settle",
        "enqueue",
        "extend",
        "release",
        "inspect",
        "handshake"
    ];
    let blocks = PAGE.split("\n```text\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|rest| rest.split("\n```\n").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), scripts.len() + 1, "the message comes last");
    for ((name, script), block) in scripts.into_iter().zip(&blocks) {
        let header = script.lines().map_while(|line| line.strip_prefix("--"));
        let header: Vec<&str> = header
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        assert_eq!(*block, header.join("\n"), "{name}");
    }
}
