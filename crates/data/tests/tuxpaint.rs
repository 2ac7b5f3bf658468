//! The pictures of Tux Paint with their classes, where they have been fetched.
#![allow(clippy::unwrap_used)] // a picture that cannot be read is a failure

use acclimate_data::{Asset, Assets, Channels, Image, Inputs, Presence};

#[test]
fn pictures_have_classes_of_imagenet() {
    let assets = Assets::open(true).unwrap();
    for (name, count, shared) in [("tuxpaint-photos", 81, "lion"), ("tuxpaint-cartoons", 27, "lion")] {
        let cached =
            |(asset, presence, _): &(&Asset, Presence, u64)| asset.name == name && *presence == Presence::Present;
        if !assets.list().iter().any(cached) {
            println!("skipped: asset:{name} is not in the cache; `acclimate assets get {name}` brings it");
            continue;
        }
        let (table, columns) = assets.table(name).unwrap();
        let Inputs::Images(files) = Inputs::read(&table, &columns).unwrap() else { panic!("{name} holds no pictures") };
        assert_eq!(files.len(), count);
        for file in files.iter().step_by(9) {
            let image = Image::read(file, Channels::Rgb, Some((224, 224))).unwrap();
            assert_eq!(image.values.len(), 3 * 224 * 224);
        }
        let labels = table.texts(columns.target.as_deref().unwrap()).unwrap();
        assert!(labels.iter().any(|label| label == shared), "{name}");
        assert!(table.numbers("index").unwrap().iter().all(|index| (0.0..1000.0).contains(index)));
    }
}
