"""What must hold whoever writes: frozen cohorts do not change, and a case is on the side of its own patient."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION cohort_refuse_if_frozen(which bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- FOR SHARE waits for a freeze that is under way.
  IF (SELECT frozen_at IS NOT NULL FROM cohorts_cohort WHERE id = which FOR SHARE) THEN
    RAISE EXCEPTION 'cohort % is frozen', which USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_frozen';
  END IF;
END $$;

CREATE FUNCTION cohort_members_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN PERFORM cohort_refuse_if_frozen(OLD.cohort_id); END IF;
  IF TG_OP <> 'DELETE' THEN PERFORM cohort_refuse_if_frozen(NEW.cohort_id); RETURN NEW; END IF;
  RETURN OLD;
END $$;

CREATE TRIGGER cohort_patient_guard BEFORE INSERT OR UPDATE OR DELETE ON cohorts_cohortpatient
  FOR EACH ROW EXECUTE FUNCTION cohort_members_guard();
CREATE TRIGGER cohort_case_guard BEFORE INSERT OR UPDATE OR DELETE ON cohorts_case
  FOR EACH ROW EXECUTE FUNCTION cohort_members_guard();

CREATE FUNCTION cohort_freeze_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.frozen_at IS NOT NULL AND (
    NEW.frozen_at IS DISTINCT FROM OLD.frozen_at OR NEW.seed IS DISTINCT FROM OLD.seed
    OR NEW.digest IS DISTINCT FROM OLD.digest OR NEW.project_id IS DISTINCT FROM OLD.project_id
  ) THEN
    RAISE EXCEPTION 'cohort % is frozen', OLD.id USING ERRCODE = 'check_violation', CONSTRAINT = 'cohort_frozen';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cohort_freeze_guard BEFORE UPDATE ON cohorts_cohort
  FOR EACH ROW EXECUTE FUNCTION cohort_freeze_guard();

CREATE FUNCTION cohort_case_belongs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT 1 FROM studies_study study
      JOIN cohorts_cohortpatient place ON place.id = NEW.cohort_patient_id
      JOIN cohorts_cohort cohort ON cohort.id = NEW.cohort_id
      JOIN studies_series image ON image.id = NEW.image_id
     WHERE study.id = NEW.study_id AND place.patient_id = study.patient_id AND place.cohort_id = cohort.id
       AND study.project_id = cohort.project_id AND image.study_id = study.id
  ) THEN
    RAISE EXCEPTION 'case does not fit: patient, cohort, project and image must be those of study %', NEW.study_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'case_belongs_to_its_patient';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cohort_case_belongs BEFORE INSERT OR UPDATE ON cohorts_case
  FOR EACH ROW EXECUTE FUNCTION cohort_case_belongs();

CREATE FUNCTION cohort_patient_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.patient_id <> OLD.patient_id OR NEW.cohort_id <> OLD.cohort_id THEN
    RAISE EXCEPTION 'a place in a cohort keeps its patient'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'case_belongs_to_its_patient';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cohort_patient_stays BEFORE UPDATE ON cohorts_cohortpatient
  FOR EACH ROW EXECUTE FUNCTION cohort_patient_stays();

CREATE FUNCTION cohort_study_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.patient_id <> OLD.patient_id OR NEW.project_id <> OLD.project_id)
     AND EXISTS (SELECT 1 FROM cohorts_case WHERE study_id = OLD.id) THEN
    RAISE EXCEPTION 'study % is in a cohort; its patient and project cannot change', OLD.id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'case_belongs_to_its_patient';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cohort_study_stays BEFORE UPDATE OF patient_id, project_id ON studies_study
  FOR EACH ROW EXECUTE FUNCTION cohort_study_stays();

CREATE FUNCTION cohort_reference_stays() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER cohort_reference_stays BEFORE UPDATE ON cohorts_referencestandard
  FOR EACH ROW EXECUTE FUNCTION cohort_reference_stays();
CREATE TRIGGER cohort_reference_label_stays BEFORE UPDATE ON cohorts_referencelabel
  FOR EACH ROW EXECUTE FUNCTION cohort_reference_stays();
"""

BACKWARD = """
DROP TRIGGER cohort_reference_label_stays ON cohorts_referencelabel;
DROP TRIGGER cohort_reference_stays ON cohorts_referencestandard;
DROP TRIGGER cohort_study_stays ON studies_study;
DROP TRIGGER cohort_patient_stays ON cohorts_cohortpatient;
DROP TRIGGER cohort_case_belongs ON cohorts_case;
DROP TRIGGER cohort_freeze_guard ON cohorts_cohort;
DROP TRIGGER cohort_case_guard ON cohorts_case;
DROP TRIGGER cohort_patient_guard ON cohorts_cohortpatient;
DROP FUNCTION cohort_reference_stays();
DROP FUNCTION cohort_study_stays();
DROP FUNCTION cohort_patient_stays();
DROP FUNCTION cohort_case_belongs();
DROP FUNCTION cohort_freeze_guard();
DROP FUNCTION cohort_members_guard();
DROP FUNCTION cohort_refuse_if_frozen(bigint);
"""


class Migration(migrations.Migration):
    dependencies = [("cohorts", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
