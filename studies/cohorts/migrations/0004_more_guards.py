"""What must hold whoever writes: near-duplicates lie on one side of a split, and values fit their variable."""

from django.db import migrations

FREEZE_BEFORE = """
CREATE OR REPLACE FUNCTION cohort_freeze_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.frozen_at IS NOT NULL AND (
    NEW.frozen_at IS DISTINCT FROM OLD.frozen_at OR NEW.seed IS DISTINCT FROM OLD.seed
    OR NEW.digest IS DISTINCT FROM OLD.digest OR NEW.project_id IS DISTINCT FROM OLD.project_id
  ) THEN
    RAISE EXCEPTION 'cohort % is frozen', OLD.id USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_frozen';
  END IF;
  RETURN NEW;
END $$;
"""

FREEZE = """
CREATE OR REPLACE FUNCTION cohort_freeze_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.frozen_at IS NOT NULL AND (
    NEW.frozen_at IS DISTINCT FROM OLD.frozen_at OR NEW.seed IS DISTINCT FROM OLD.seed
    OR NEW.digest IS DISTINCT FROM OLD.digest OR NEW.project_id IS DISTINCT FROM OLD.project_id
    OR NEW.method IS DISTINCT FROM OLD.method
  ) THEN
    RAISE EXCEPTION 'cohort % is frozen', OLD.id USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_frozen';
  END IF;
  IF OLD.frozen_at IS NULL AND NEW.frozen_at IS NOT NULL THEN
    PERFORM cohort_refuse_leak(NEW.id);
  END IF;
  RETURN NEW;
END $$;
"""

REFERENCE_BEFORE = """
CREATE OR REPLACE FUNCTION cohort_reference_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'cohorts_referencelabel' THEN
    RAISE EXCEPTION 'reference standard % never changes; make its next version', OLD.reference_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'reference_standard_stays';
  END IF;
  IF NEW.cohort_id <> OLD.cohort_id OR NEW.name <> OLD.name OR NEW.version <> OLD.version
     OR NEW.source <> OLD.source OR NEW.labels <> OLD.labels THEN
    RAISE EXCEPTION 'reference standard % never changes; make its next version', OLD.id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'reference_standard_stays';
  END IF;
  RETURN NEW;
END $$;
"""

REFERENCE = REFERENCE_BEFORE.replace(
    "OR NEW.labels <> OLD.labels", "OR NEW.labels <> OLD.labels OR NEW.kind <> OLD.kind OR NEW.classes <> OLD.classes"
)

FORWARD = (
    # Before the trigger knows of kinds: those that hold answers only.
    "UPDATE cohorts_referencestandard SET kind = 'answers' WHERE labels = '[]'::jsonb;"
    + REFERENCE
    + """
CREATE FUNCTION cohort_refuse_leak(which bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM duplicates_pair pair
      JOIN studies_series one ON one.id = pair.one_id
      JOIN studies_series other ON other.id = pair.other_id
      JOIN cohorts_case a ON a.study_id = one.study_id AND a.cohort_id = which
      JOIN cohorts_case b ON b.study_id = other.study_id AND b.cohort_id = which
      JOIN cohorts_cohortpatient here ON here.id = a.cohort_patient_id
      JOIN cohorts_cohortpatient there ON there.id = b.cohort_patient_id
     WHERE pair.state <> 'dismissed' AND (here.split, here.fold) IS DISTINCT FROM (there.split, there.fold)
  ) OR EXISTS (
    SELECT 1 FROM cohorts_clinicalvalue value
      JOIN cohorts_clinicalvariable variable ON variable.id = value.variable_id AND variable.role = 'group'
      JOIN cohorts_case one ON one.cohort_id = which
       AND (one.study_id = value.study_id
            OR (value.study_id IS NULL AND one.cohort_patient_id IN (
                 SELECT id FROM cohorts_cohortpatient WHERE cohort_id = which AND patient_id = value.patient_id)))
      JOIN cohorts_cohortpatient place ON place.id = one.cohort_patient_id
     GROUP BY value.variable_id, value.text
    HAVING count(DISTINCT (place.split, COALESCE(place.fold, -1))) > 1
  ) OR EXISTS (
    SELECT 1 FROM cohorts_cohortpatient WHERE cohort_id = which AND "group" IS NOT NULL
     GROUP BY "group" HAVING count(DISTINCT (split, COALESCE(fold, -1))) > 1
  ) THEN
    RAISE EXCEPTION 'cohort % has near-duplicate images on two sides of its split', which
      USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_duplicates_together';
  END IF;
END $$;

-- A group stays together before the freeze too; checked at the end of the transaction, as rows move one by one.
CREATE FUNCTION cohort_group_together() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM cohorts_cohortpatient other JOIN cohorts_cohortpatient mine ON mine.id = NEW.id
     WHERE other.cohort_id = mine.cohort_id AND other."group" = mine."group"
       AND (other.split, other.fold) IS DISTINCT FROM (mine.split, mine.fold)
  ) THEN
    RAISE EXCEPTION 'patients with near-duplicate images stay on one side of a split'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_duplicates_together';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER cohort_group_together AFTER INSERT OR UPDATE ON cohorts_cohortpatient
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW."group" IS NOT NULL) EXECUTE FUNCTION cohort_group_together();

CREATE FUNCTION cohort_label_fits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT 1 FROM cohorts_referencestandard reference JOIN cohorts_case one ON one.id = NEW.case_id
     WHERE reference.id = NEW.reference_id AND reference.cohort_id = one.cohort_id
       AND (reference.kind <> 'classification' OR reference.classes @> (NEW."values" -> 'class'))
  ) THEN
    RAISE EXCEPTION 'label does not fit: case of another cohort, or a class that the reference standard lacks'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'reference_label_fits';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cohort_label_fits BEFORE INSERT ON cohorts_referencelabel
  FOR EACH ROW EXECUTE FUNCTION cohort_label_fits();

CREATE FUNCTION clinical_value_fits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT 1 FROM cohorts_clinicalvariable variable
      JOIN studies_patient patient ON patient.id = NEW.patient_id AND patient.project_id = variable.project_id
      LEFT JOIN studies_study study ON study.id = NEW.study_id
     WHERE variable.id = NEW.variable_id
       AND (NEW.study_id IS NULL OR study.patient_id = NEW.patient_id)
       AND CASE variable.kind
             WHEN 'number' THEN NEW.number IS NOT NULL AND NEW.event IS NULL
             WHEN 'survival' THEN NEW.number IS NOT NULL AND NEW.event IS NOT NULL
             WHEN 'category' THEN NEW.text <> ''
             ELSE NEW.date IS NOT NULL
           END
  ) THEN
    RAISE EXCEPTION 'clinical value does not fit: variable, patient and study must belong together, and the value be of its kind'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'clinical_value_fits';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER clinical_value_fits BEFORE INSERT OR UPDATE ON cohorts_clinicalvalue
  FOR EACH ROW EXECUTE FUNCTION clinical_value_fits();
"""
    + FREEZE
)

BACKWARD = (
    FREEZE_BEFORE
    + REFERENCE_BEFORE
    + """
DROP TRIGGER clinical_value_fits ON cohorts_clinicalvalue;
DROP TRIGGER cohort_label_fits ON cohorts_referencelabel;
DROP TRIGGER cohort_group_together ON cohorts_cohortpatient;
DROP FUNCTION clinical_value_fits();
DROP FUNCTION cohort_label_fits();
DROP FUNCTION cohort_group_together();
DROP FUNCTION cohort_refuse_leak(bigint);
"""
)


class Migration(migrations.Migration):
    dependencies = [("cohorts", "0003_splits_and_clinical"), ("duplicates", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
