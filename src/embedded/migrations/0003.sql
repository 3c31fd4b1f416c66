-- A word that is sealed with the key, so that another key is noticed.
CREATE TABLE key_proof (sealed TEXT NOT NULL);
