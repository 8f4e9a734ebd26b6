BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'vgg11-digits-30each-smoke/search');
INSERT INTO "studies" VALUES(2,'vgg11-digits-30each-smoke/uniform');
INSERT INTO "studies" VALUES(3,'vgg11-digits-30each-smoke/magnitude');
INSERT INTO "studies" VALUES(4,'vgg11-digits-30each-smoke/neuralscale');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
INSERT INTO "study_directions" VALUES(3,'MAXIMIZE',2,0);
INSERT INTO "study_directions" VALUES(4,'MINIMIZE',2,1);
INSERT INTO "study_directions" VALUES(5,'MAXIMIZE',3,0);
INSERT INTO "study_directions" VALUES(6,'MINIMIZE',3,1);
INSERT INTO "study_directions" VALUES(7,'MAXIMIZE',4,0);
INSERT INTO "study_directions" VALUES(8,'MINIMIZE',4,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["lowest r2 of a layer", "seconds"]');
INSERT INTO "study_system_attributes" VALUES(2,2,'study:metric_names','["validation accuracy (%)", "latency (ms)"]');
INSERT INTO "study_system_attributes" VALUES(3,3,'study:metric_names','["validation accuracy (%)", "latency (ms)"]');
INSERT INTO "study_system_attributes" VALUES(4,4,'study:metric_names','["validation accuracy (%)", "latency (ms)"]');
INSERT INTO "study_system_attributes" VALUES(5,3,'artifacts:be9bb37a-fe62-4dad-8a08-cfbb9daf97e2','"{\"artifact_id\": \"be9bb37a-fe62-4dad-8a08-cfbb9daf97e2\", \"filename\": \"vgg11-digits-30each-smoke-magnitude.pt\", \"mimetype\": \"application/octet-stream\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(6,4,'artifacts:18d58557-4c8e-45f0-9bcb-00bdf9bfb251','"{\"artifact_id\": \"18d58557-4c8e-45f0-9bcb-00bdf9bfb251\", \"filename\": \"vgg11-digits-30each-smoke-neuralscale.pt\", \"mimetype\": \"application/octet-stream\", \"encoding\": null}"');
INSERT INTO "study_system_attributes" VALUES(7,2,'artifacts:b88949ff-2e1d-488b-a9f5-1336083b1b2d','"{\"artifact_id\": \"b88949ff-2e1d-488b-a9f5-1336083b1b2d\", \"filename\": \"vgg11-digits-30each-smoke-uniform.pt\", \"mimetype\": \"application/octet-stream\", \"encoding\": null}"');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'subject','{"arch": "vgg11", "data": "digits-30each", "classes": 10, "image_size": 32, "channels": 1, "layer_names": ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8"], "base_widths": [64, 128, 256, 256, 512, 512, 512, 512]}');
INSERT INTO "study_user_attributes" VALUES(2,1,'source','{"name": "digits", "image_size": null, "subset": {"classes": null, "per_class": 30}}');
INSERT INTO "study_user_attributes" VALUES(3,1,'provenance','{"device": "AMD EPYC, 1 threads", "training precision": "fp32", "commit": "3ac22b3681d1", "python": "3.11.7", "system": "Linux x86_64", "nsopt": "0.1.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0", "optuna": "5.0.0", "scikit-learn": "1.9.1", "numpy": "2.4.6"}');
INSERT INTO "study_user_attributes" VALUES(4,1,'settings','{"preset": "smoke", "search": {"pretrain_epochs": 0, "prune_every": 1, "filters_per_step": 400, "keep_fraction": 0.05, "iterations": 1, "convergence": null, "small_width": 10, "batch_size": 32, "lr": 0.05, "prune_lr": 0.01, "prune_lr_divisor": 1.5, "prune_lr_epochs": 10, "momentum": 0.5, "weight_decay": 0.0005, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "training": {"epochs": 1, "batch_size": 32, "lr": 0.02, "momentum": 0.5, "weight_decay": 0.0005, "decay_after": [0.3333333333333333, 0.6666666666666666, 0.8333333333333334], "decay": 0.1, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "magnitude_epochs": 3, "fine_tune_epochs": 2, "fine_tune_lr": 0.002, "eta": null, "data": {"train": 270, "validation": 30, "test": 450, "crc32": 2685770316}}');
INSERT INTO "study_user_attributes" VALUES(5,2,'subject','{"arch": "vgg11", "data": "digits-30each", "classes": 10, "image_size": 32, "channels": 1, "layer_names": ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8"], "base_widths": [64, 128, 256, 256, 512, 512, 512, 512]}');
INSERT INTO "study_user_attributes" VALUES(6,2,'source','{"name": "digits", "image_size": null, "subset": {"classes": null, "per_class": 30}}');
INSERT INTO "study_user_attributes" VALUES(7,2,'provenance','{"device": "AMD EPYC, 1 threads", "training precision": "fp32", "commit": "3ac22b3681d1", "python": "3.11.7", "system": "Linux x86_64", "nsopt": "0.1.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0", "optuna": "5.0.0", "scikit-learn": "1.9.1", "numpy": "2.4.6"}');
INSERT INTO "study_user_attributes" VALUES(8,2,'settings','{"preset": "smoke", "search": {"pretrain_epochs": 0, "prune_every": 1, "filters_per_step": 400, "keep_fraction": 0.05, "iterations": 1, "convergence": null, "small_width": 10, "batch_size": 32, "lr": 0.05, "prune_lr": 0.01, "prune_lr_divisor": 1.5, "prune_lr_epochs": 10, "momentum": 0.5, "weight_decay": 0.0005, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "training": {"epochs": 1, "batch_size": 32, "lr": 0.02, "momentum": 0.5, "weight_decay": 0.0005, "decay_after": [0.3333333333333333, 0.6666666666666666, 0.8333333333333334], "decay": 0.1, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "magnitude_epochs": 3, "fine_tune_epochs": 2, "fine_tune_lr": 0.002, "eta": null, "data": {"train": 270, "validation": 30, "test": 450, "crc32": 2685770316}}');
INSERT INTO "study_user_attributes" VALUES(9,3,'subject','{"arch": "vgg11", "data": "digits-30each", "classes": 10, "image_size": 32, "channels": 1, "layer_names": ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8"], "base_widths": [64, 128, 256, 256, 512, 512, 512, 512]}');
INSERT INTO "study_user_attributes" VALUES(10,3,'source','{"name": "digits", "image_size": null, "subset": {"classes": null, "per_class": 30}}');
INSERT INTO "study_user_attributes" VALUES(11,3,'provenance','{"device": "AMD EPYC, 1 threads", "training precision": "fp32", "commit": "3ac22b3681d1", "python": "3.11.7", "system": "Linux x86_64", "nsopt": "0.1.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0", "optuna": "5.0.0", "scikit-learn": "1.9.1", "numpy": "2.4.6"}');
INSERT INTO "study_user_attributes" VALUES(12,3,'settings','{"preset": "smoke", "search": {"pretrain_epochs": 0, "prune_every": 1, "filters_per_step": 400, "keep_fraction": 0.05, "iterations": 1, "convergence": null, "small_width": 10, "batch_size": 32, "lr": 0.05, "prune_lr": 0.01, "prune_lr_divisor": 1.5, "prune_lr_epochs": 10, "momentum": 0.5, "weight_decay": 0.0005, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "training": {"epochs": 1, "batch_size": 32, "lr": 0.02, "momentum": 0.5, "weight_decay": 0.0005, "decay_after": [0.3333333333333333, 0.6666666666666666, 0.8333333333333334], "decay": 0.1, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "magnitude_epochs": 3, "fine_tune_epochs": 2, "fine_tune_lr": 0.002, "eta": null, "data": {"train": 270, "validation": 30, "test": 450, "crc32": 2685770316}}');
INSERT INTO "study_user_attributes" VALUES(13,4,'subject','{"arch": "vgg11", "data": "digits-30each", "classes": 10, "image_size": 32, "channels": 1, "layer_names": ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8"], "base_widths": [64, 128, 256, 256, 512, 512, 512, 512]}');
INSERT INTO "study_user_attributes" VALUES(14,4,'source','{"name": "digits", "image_size": null, "subset": {"classes": null, "per_class": 30}}');
INSERT INTO "study_user_attributes" VALUES(15,4,'provenance','{"device": "AMD EPYC, 1 threads", "training precision": "fp32", "commit": "3ac22b3681d1", "python": "3.11.7", "system": "Linux x86_64", "nsopt": "0.1.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0", "optuna": "5.0.0", "scikit-learn": "1.9.1", "numpy": "2.4.6"}');
INSERT INTO "study_user_attributes" VALUES(16,4,'settings','{"preset": "smoke", "search": {"pretrain_epochs": 0, "prune_every": 1, "filters_per_step": 400, "keep_fraction": 0.05, "iterations": 1, "convergence": null, "small_width": 10, "batch_size": 32, "lr": 0.05, "prune_lr": 0.01, "prune_lr_divisor": 1.5, "prune_lr_epochs": 10, "momentum": 0.5, "weight_decay": 0.0005, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "training": {"epochs": 1, "batch_size": 32, "lr": 0.02, "momentum": 0.5, "weight_decay": 0.0005, "decay_after": [0.3333333333333333, 0.6666666666666666, 0.8333333333333334], "decay": 0.1, "val_fraction": 0.1, "seed": 0, "device": "cpu", "precision": "fp32"}, "magnitude_epochs": 3, "fine_tune_epochs": 2, "fine_tune_lr": 0.002, "eta": null, "data": {"train": 270, "validation": 30, "test": 450, "crc32": 2685770316}}');
INSERT INTO "study_user_attributes" VALUES(17,2,'latency:1-3-7-7-15-15-15-15','{"median_ms": 2.195851500118806, "lower_quartile_ms": 2.169009249882947, "upper_quartile_ms": 2.243615999987014, "mean_ms": 2.266509587479959, "batch_size": 100, "repeats": 80, "device": "AMD EPYC, 1 threads"}');
INSERT INTO "study_user_attributes" VALUES(18,4,'latency:17-20-10-11-6-7-6-7','{"median_ms": 4.94142900015504, "lower_quartile_ms": 4.829277000112597, "upper_quartile_ms": 5.080215749785566, "mean_ms": 4.966009462526699, "batch_size": 100, "repeats": 80, "device": "AMD EPYC, 1 threads"}');
INSERT INTO "study_user_attributes" VALUES(19,3,'latency:31-14-19-4-9-1-1-2','{"median_ms": 6.811674499886067, "lower_quartile_ms": 6.770090500026527, "upper_quartile_ms": 6.870407249834898, "mean_ms": 6.8327203374735745, "batch_size": 100, "repeats": 80, "device": "AMD EPYC, 1 threads"}');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_heartbeats" VALUES(1,3,'2026-11-20 23:34:27.000000');
INSERT INTO "trial_heartbeats" VALUES(2,4,'2026-11-20 23:34:28');
INSERT INTO "trial_heartbeats" VALUES(3,2,'2026-11-20 23:34:28');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'width_conv1',66.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(2,1,'width_conv2',138.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(3,1,'width_conv3',303.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(4,1,'width_conv4',280.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(5,1,'width_conv5',509.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(6,1,'width_conv6',466.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(7,1,'width_conv7',428.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(8,1,'width_conv8',721.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(9,3,'width_conv1',31.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 31, "high": 31}}');
INSERT INTO "trial_params" VALUES(10,3,'width_conv2',14.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 14, "high": 14}}');
INSERT INTO "trial_params" VALUES(11,3,'width_conv3',19.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 19, "high": 19}}');
INSERT INTO "trial_params" VALUES(12,3,'width_conv4',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 4, "high": 4}}');
INSERT INTO "trial_params" VALUES(13,3,'width_conv5',9.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 9, "high": 9}}');
INSERT INTO "trial_params" VALUES(14,3,'width_conv6',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 1}}');
INSERT INTO "trial_params" VALUES(15,3,'width_conv7',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 1}}');
INSERT INTO "trial_params" VALUES(16,3,'width_conv8',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 2}}');
INSERT INTO "trial_params" VALUES(17,4,'width_conv1',17.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(18,4,'width_conv2',20.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(19,4,'width_conv3',10.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(20,4,'width_conv4',11.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(21,4,'width_conv5',6.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(22,4,'width_conv6',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(23,4,'width_conv7',6.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(24,4,'width_conv8',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(25,2,'width_conv1',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(26,2,'width_conv2',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(27,2,'width_conv3',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(28,2,'width_conv4',7.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(29,2,'width_conv5',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(30,2,'width_conv6',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(31,2,'width_conv7',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
INSERT INTO "trial_params" VALUES(32,2,'width_conv8',15.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 65536}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,2,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(2,3,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(3,4,'fixed_params','{}');
INSERT INTO "trial_system_attributes" VALUES(4,3,'constraints:budget','-0.013861386138613862');
INSERT INTO "trial_system_attributes" VALUES(5,4,'constraints:budget','-0.002103960396039604');
INSERT INTO "trial_system_attributes" VALUES(6,2,'constraints:budget','0.0');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'method','"search"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'iteration_number','1');
INSERT INTO "trial_user_attributes" VALUES(3,1,'seconds','1.4670822050002243');
INSERT INTO "trial_user_attributes" VALUES(4,1,'rows','6');
INSERT INTO "trial_user_attributes" VALUES(5,1,'lowest_r2','0.9808484621563883');
INSERT INTO "trial_user_attributes" VALUES(6,1,'iteration','{"trajectory": [[64, 128, 256, 256, 512, 512, 512, 512], [64, 126, 229, 226, 426, 419, 408, 454], [58, 115, 204, 199, 347, 330, 299, 400], [52, 104, 169, 171, 260, 252, 223, 321], [49, 86, 137, 133, 173, 164, 150, 260], [43, 68, 101, 91, 99, 95, 92, 163], [32, 50, 52, 46, 48, 37, 36, 51], [21, 27, 16, 19, 13, 15, 13, 13]], "tau": [9229962, 6488816, 4263419, 2615122, 1349289, 554480, 125560, 19721], "law": {"alpha": [3.5149227378098136, 2.06335346546496, 0.1917935329595168, 0.252217044435622, 0.03686688135201905, 0.04266265415871938, 0.03870347436218862, 0.02485627383351741], "beta": [0.18519500345974002, 0.26482951887141115, 0.46340284473761756, 0.4413695980537885, 0.5998641311272387, 0.5850641224710524, 0.5859708268597229, 0.6464988993193452], "r2": [0.9875875672067581, 0.993784822721813, 0.9808484621563883, 0.9972887661102626, 0.9969452682105231, 0.9972580741151865, 0.9995604042351979, 0.9847469353457046]}, "widths": [66, 138, 303, 280, 509, 466, 428, 721], "seconds": 1.4670822050002243}');
INSERT INTO "trial_user_attributes" VALUES(7,2,'method','"uniform"');
INSERT INTO "trial_user_attributes" VALUES(8,2,'metric','"params"');
INSERT INTO "trial_user_attributes" VALUES(9,2,'budget','8080');
INSERT INTO "trial_user_attributes" VALUES(10,2,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(11,2,'ratio','0.03');
INSERT INTO "trial_user_attributes" VALUES(12,3,'method','"magnitude"');
INSERT INTO "trial_user_attributes" VALUES(13,3,'metric','"params"');
INSERT INTO "trial_user_attributes" VALUES(14,3,'budget','8080');
INSERT INTO "trial_user_attributes" VALUES(15,3,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(16,3,'ratio','0.03');
INSERT INTO "trial_user_attributes" VALUES(17,4,'method','"neuralscale"');
INSERT INTO "trial_user_attributes" VALUES(18,4,'metric','"params"');
INSERT INTO "trial_user_attributes" VALUES(19,4,'budget','8080');
INSERT INTO "trial_user_attributes" VALUES(20,4,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(21,4,'ratio','0.03');
INSERT INTO "trial_user_attributes" VALUES(22,3,'worker','"vm:22452"');
INSERT INTO "trial_user_attributes" VALUES(23,3,'params','7968');
INSERT INTO "trial_user_attributes" VALUES(24,3,'macs','1489232');
INSERT INTO "trial_user_attributes" VALUES(25,3,'latency_ms','6.811674499886067');
INSERT INTO "trial_user_attributes" VALUES(26,3,'latency_lower_quartile_ms','6.770090500026527');
INSERT INTO "trial_user_attributes" VALUES(27,3,'latency_upper_quartile_ms','6.870407249834898');
INSERT INTO "trial_user_attributes" VALUES(28,3,'tau','7968');
INSERT INTO "trial_user_attributes" VALUES(29,3,'val_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(30,3,'test_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(31,3,'test_accuracy_best_epoch','10.0');
INSERT INTO "trial_user_attributes" VALUES(32,3,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(33,3,'seconds','0.3333437460000823');
INSERT INTO "trial_user_attributes" VALUES(34,3,'feasible','true');
INSERT INTO "trial_user_attributes" VALUES(35,3,'curves_per_epoch','{"train_loss": [2.3041528772424766, 2.298546233000579], "val_accuracy": [10.0, 10.0], "test_accuracy": [10.0, 10.0]}');
INSERT INTO "trial_user_attributes" VALUES(36,4,'worker','"vm:22452"');
INSERT INTO "trial_user_attributes" VALUES(37,4,'params','8063');
INSERT INTO "trial_user_attributes" VALUES(38,4,'macs','1137238');
INSERT INTO "trial_user_attributes" VALUES(39,4,'latency_ms','4.94142900015504');
INSERT INTO "trial_user_attributes" VALUES(40,4,'latency_lower_quartile_ms','4.829277000112597');
INSERT INTO "trial_user_attributes" VALUES(41,4,'latency_upper_quartile_ms','5.080215749785566');
INSERT INTO "trial_user_attributes" VALUES(42,4,'tau','8063');
INSERT INTO "trial_user_attributes" VALUES(43,4,'val_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(44,4,'test_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(45,4,'test_accuracy_best_epoch','10.0');
INSERT INTO "trial_user_attributes" VALUES(46,4,'epochs','1');
INSERT INTO "trial_user_attributes" VALUES(47,4,'seconds','0.1537284730002284');
INSERT INTO "trial_user_attributes" VALUES(48,4,'feasible','true');
INSERT INTO "trial_user_attributes" VALUES(49,4,'curves_per_epoch','{"train_loss": [2.3545609085648147], "val_accuracy": [10.0], "test_accuracy": [10.0]}');
INSERT INTO "trial_user_attributes" VALUES(50,2,'worker','"vm:22452"');
INSERT INTO "trial_user_attributes" VALUES(51,2,'params','8080');
INSERT INTO "trial_user_attributes" VALUES(52,2,'macs','120318');
INSERT INTO "trial_user_attributes" VALUES(53,2,'latency_ms','2.195851500118806');
INSERT INTO "trial_user_attributes" VALUES(54,2,'latency_lower_quartile_ms','2.169009249882947');
INSERT INTO "trial_user_attributes" VALUES(55,2,'latency_upper_quartile_ms','2.243615999987014');
INSERT INTO "trial_user_attributes" VALUES(56,2,'tau','8080');
INSERT INTO "trial_user_attributes" VALUES(57,2,'val_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(58,2,'test_accuracy','10.0');
INSERT INTO "trial_user_attributes" VALUES(59,2,'test_accuracy_best_epoch','10.0');
INSERT INTO "trial_user_attributes" VALUES(60,2,'epochs','1');
INSERT INTO "trial_user_attributes" VALUES(61,2,'seconds','0.05816142099956778');
INSERT INTO "trial_user_attributes" VALUES(62,2,'feasible','true');
INSERT INTO "trial_user_attributes" VALUES(63,2,'curves_per_epoch','{"train_loss": [2.351337574146412], "val_accuracy": [10.0], "test_accuracy": [10.0]}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,9.80848462156388323229e-01,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,1.46708220500022434862e+00,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,10.0,'FINITE');
INSERT INTO "trial_values" VALUES(4,3,1,6.81167449988606676924e+00,'FINITE');
INSERT INTO "trial_values" VALUES(5,4,0,10.0,'FINITE');
INSERT INTO "trial_values" VALUES(6,4,1,4.94142900015504,'FINITE');
INSERT INTO "trial_values" VALUES(7,2,0,10.0,'FINITE');
INSERT INTO "trial_values" VALUES(8,2,1,2.19585150011880614329e+00,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-20 23:34:20.231122','2026-11-20 23:34:20.231122');
INSERT INTO "trials" VALUES(2,0,2,'COMPLETE','2026-11-20 23:34:28.524640','2026-11-20 23:34:28.629977');
INSERT INTO "trials" VALUES(3,0,3,'COMPLETE','2026-11-20 23:34:21.084296','2026-11-20 23:34:28.306359');
INSERT INTO "trials" VALUES(4,0,4,'COMPLETE','2026-11-20 23:34:28.315620','2026-11-20 23:34:28.515732');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
