use crate::support::{b, cat, schema, ty, v, vectors_schema};
use confold_model::code::Code;

/// formats.md 4: ascending, none a prefix of another, no step into a repeated field, map or child.
#[test]
fn a_mask_has_one_form_and_stays_within_singular_messages() {
    let schema = vectors_schema();
    let good: [&[&[u32]]; 6] = [&[&[1]], &[&[1], &[17]], &[&[17, 1], &[17, 3, 3, 1]], &[&[18], &[22], &[24]], &[&[27, 1], &[28, 1]], &[&[17, 3], &[18]]];
    for mask in good {
        let mask: Vec<Vec<u32>> = mask.iter().map(|path| path.to_vec()).collect();
        schema.check_mask(schema.root(), &mask).unwrap_or_else(|error| panic!("{mask:?}: {error}"));
    }
    let deep = vec![3; 64];
    let bad: [(&[&[u32]], Code, &str); 14] = [
        (&[], Code::NotCanonical, "at least one"),
        (&[&[]], Code::NotCanonical, "at least one"),
        (&[&[17], &[1]], Code::NotCanonical, "paths ascend"),
        (&[&[17], &[17, 1]], Code::NotCanonical, "covers it already"),
        (&[&[1], &[1]], Code::NotCanonical, "covers it already"),
        (&[&[40]], Code::NotFound, "no field 40"),
        (&[&[17, 9]], Code::NotFound, "vectors.Plain has no field 9"),
        (&[&[1, 1]], Code::InvalidPath, "no step can go into name"),
        (&[&[18, 1]], Code::InvalidPath, "no step can go into plains"),
        (&[&[22, 2]], Code::InvalidPath, "no step can go into by_number"),
        (&[&[100]], Code::ChildrenInUpdate, "items is a child"),
        (&[&[105, 1]], Code::ChildrenInUpdate, "single is a child"),
        (&[&[29]], Code::InvalidPath, "REAL_TIME"),
        (&[&[[17].as_slice(), &deep].concat()], Code::Limit, "at most 64"),
    ];
    for (mask, code, words) in bad {
        let mask: Vec<Vec<u32>> = mask.iter().map(|path| path.to_vec()).collect();
        let error = schema.check_mask(schema.root(), &mask).expect_err(words);
        assert_eq!(error.code, code, "{}", error.text);
        assert!(error.text.contains(words), "\"{}\" does not say \"{words}\"", error.text);
    }
    // In plain data a child field is data.
    let item = ty(&schema, "vectors.Item");
    schema.check_mask(item, &[vec![5, 4]]).expect("a list inside plain data");
}

/// U1, formats.md 4: setting a.b creates a, clearing it leaves a present.
#[test]
fn setting_creates_and_clearing_leaves_present() {
    let schema = vectors_schema();
    let root = schema.root();
    let plain = |inner: Vec<u8>| b(17, inner);
    let mask = [vec![17, 3, 1]];
    for (old, value, merged) in [
        (vec![], plain(b(3, b(1, "x"))), plain(b(3, b(1, "x")))),
        (plain(b(1, "s")), plain(b(3, b(1, "x"))), plain(cat(&[b(1, "s"), b(3, b(1, "x"))]))),
        (plain(b(3, b(1, "x"))), vec![], plain(b(3, []))),
        (vec![], vec![], vec![]),
        (plain(vec![]), vec![], plain(vec![])),
        (v(3, 1), plain(b(3, b(1, "x"))), cat(&[v(3, 1), plain(b(3, b(1, "x")))])),
    ] {
        assert_eq!(schema.merge_masked(root, &old, &value, &mask), merged);
        // A message left without fields is absent: the masked hash does not tell the two apart.
        assert_eq!(schema.masked(root, &merged, &mask), value);
    }
    // A message named as a whole is taken as it is, empty or absent.
    let whole = [vec![17]];
    assert_eq!(schema.merge_masked(root, &plain(b(1, "s")), &plain(vec![]), &whole), plain(vec![]));
    assert_eq!(schema.merge_masked(root, &plain(b(1, "s")), &[], &whole), Vec::<u8>::new());
    assert_eq!(schema.masked(root, &plain(vec![]), &whole), plain(vec![]));
}

#[test]
fn two_masks_on_different_fields_never_overwrite_each_other() {
    let schema = vectors_schema();
    let root = schema.root();
    let old = cat(&[b(1, "name"), v(3, 1), b(17, cat(&[b(1, "s"), b(3, [])]))]);
    let (a, b_) = ([vec![1], vec![17, 1]], [vec![3], vec![17, 3]]);
    let (va, vb) = (cat(&[b(1, "new"), b(17, b(1, "t"))]), v(3, 2));
    let one = schema.merge_masked(root, &schema.merge_masked(root, &old, &va, &a), &vb, &b_);
    let other = schema.merge_masked(root, &schema.merge_masked(root, &old, &vb, &b_), &va, &a);
    assert_eq!(one, other);
    assert_eq!(one, cat(&[b(1, "new"), v(3, 2), b(17, b(1, "t"))]));
}

#[test]
fn setting_one_member_of_a_oneof_clears_the_others_and_clearing_an_unset_one_does_not() {
    let schema = vectors_schema();
    let root = schema.root();
    assert_eq!(schema.merge_masked(root, &b(25, "w"), &v(26, 0), &[vec![26]]), v(26, 0));
    assert_eq!(schema.merge_masked(root, &b(25, "w"), &[], &[vec![26]]), b(25, "w"));
    assert_eq!(schema.merge_masked(root, &b(25, "w"), &b(27, b(1, "x")), &[vec![27, 1]]), b(27, b(1, "x")));
    assert_eq!(schema.merge_masked(root, &b(27, b(1, "x")), &v(26, 0), &[vec![26], vec![27, 1]]), v(26, 0));
}

#[test]
fn a_masked_value_holds_masked_fields_only() {
    let schema = vectors_schema();
    let root = schema.root();
    let mask = [vec![1], vec![17, 1]];
    for value in [vec![], b(1, "x"), b(17, b(1, "x"))] {
        schema.check_masked_value(root, &value, &mask, 1).expect("within the mask");
    }
    for value in [v(3, 1), b(17, []), b(17, cat(&[b(1, "x"), b(3, [])])), b(1, "")] {
        assert_eq!(schema.check_masked_value(root, &value, &mask, 1).expect_err("outside").code, Code::NotCanonical);
    }
    assert_eq!(schema.check_masked_value(root, &b(100, b(1, "a")), &mask, 1).expect_err("child").code, Code::ChildrenInUpdate);
}

#[test]
fn joining_puts_children_among_the_fields_and_leaves_default_single_children_out() {
    let schema = schema(
        "message Root { string a = 1; repeated Root list = 2 [(voltha.child_node) = {}]; string c = 3; Leaf single = 4 [(voltha.child_node) = {}]; string e = 5; }
         message Leaf { string a = 1; }",
    );
    let config = cat(&[b(1, "a"), b(3, "c"), b(5, "e")]);
    let children = vec![(2, vec![vec![], b(1, "x")]), (4, vec![b(1, "y")])];
    let whole = cat(&[b(1, "a"), b(2, []), b(2, b(1, "x")), b(3, "c"), b(4, b(1, "y")), b(5, "e")]);
    assert_eq!(schema.join(schema.root(), &config, &children), whole);
    assert_eq!(schema.join(schema.root(), &config, &[(4, vec![Vec::new()])]), config);
    assert_eq!(schema.split(schema.root(), &whole, 1).expect("canonical").config, config);
}
