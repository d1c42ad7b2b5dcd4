//! The state as of a height, and the removal of the blocks above one.

use std::process::Output;

use redb::{Database, TableDefinition};

use crate::{Case, RECORDER, expect, root, stdout};

#[test]
fn a_rollback_and_the_same_blocks_again_lead_to_the_same_state() {
    let case = Case::new(RECORDER);
    let blocks = ["6869", "796f", "00", "07"].map(|block| ["--block", block]);
    let whole = case.index(&blocks.concat());
    expect(&whole, 0, &[]);
    let state = case.dump();
    let earlier = case.run(&["--dump", "--at-height", "1"]);
    assert_eq!(
        stdout(&earlier),
        "before = 0x000000006869\nlast = 0x01000000796f\n"
    );

    let first = Case::new(RECORDER);
    let two = first.index(&blocks[..2].concat());
    let roll_back = |height| case.run(&["--rollback-to", height]);
    let back = roll_back("1");
    expect(&back, 0, &[]);
    assert_eq!(
        stdout(&back),
        format!(
            "rolled back to height 1: 2 blocks removed\nstate root {}\n",
            root(&two)
        )
    );
    assert_eq!(case.dump(), first.dump());

    let agree = |output: Output| {
        expect(&output, 0, &[]);
        assert_eq!((root(&output), case.dump()), (root(&whole), state.clone()));
    };
    agree(case.index(&blocks[2..].concat()));
    // Another block in between, and back, in one command.
    let other = case.index(&["--rollback-to", "2", "--block", "ff"]);
    assert_ne!(root(&other), root(&whole));
    agree(case.index(&["--rollback-to", "2", "--block", "07"]));

    let nothing = stdout(&roll_back("4294967295"));
    assert!(nothing.starts_with("rolled back to height 4294967295: 0 blocks removed"));
    let most = stdout(&roll_back("0"));
    assert!(most.starts_with("rolled back to height 0: 3 blocks removed"));
    assert_eq!(case.dump(), "before = \nlast = 0x000000006869\n");
}

#[test]
fn a_height_that_is_indexed_is_refused_with_the_rollback_that_allows_it() {
    let case = Case::new(RECORDER);
    expect(&case.index(&["--block", "00", "--block", "01"]), 0, &[]);
    let block = ["--block", "02", "--height", "1"];
    let texts = ["height 1 is not above 1", "--rollback-to 0"];
    expect(&case.index(&block), 2, &texts);
    let advised = [&["--rollback-to", "0"], &block[..]].concat();
    expect(&case.index(&advised), 0, &[]);
    assert_eq!(case.dump(), "before = 0x0000000000\nlast = 0x0100000002\n");
    let zero = case.index(&["--block", "02", "--height", "0"]);
    expect(&zero, 2, &["height 0 is not above 1", "another --db"]);
}

#[test]
fn a_database_without_history_is_refused_and_a_new_file_is_the_way_out() {
    let case = Case::new(RECORDER);
    let earlier: TableDefinition<&[u8], &[u8]> = TableDefinition::new("values");
    let path = case.0.path().join("index.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(earlier).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let texts = ["kept no history (table `values`)", "another --db"];
    expect(&case.index(&["--block", "00"]), 2, &texts);
    expect(&case.run(&["--dump"]), 2, &texts);
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    expect(&case.index(&["--block", "00"]), 0, &[]);
}
