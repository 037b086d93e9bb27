/* What is told of a training's speed on a device: of steps that were waited for, not of those that were asked
 * for. */
#include "host_run.h"

#include "train/tiny.h"

enum { EVERY = 5, STEPS = 12 };

typedef struct speeds {
    double rate[STEPS + 1], step_s[STEPS + 1], eta_s[STEPS + 1];
} speeds;

static void note(void *user, const rk_event *e)
{
    const tiny_run *t = user;
    speeds *s = t->also_arg;
    if (e->kind != RK_EVENT_STEP || e->step > STEPS)
        return;
    s->rate[e->step] = e->progress->samples_per_s;
    s->step_s[e->step] = e->progress->step_s;
    s->eta_s[e->step] = e->progress->eta_s;
}

static void train_on(const char *device, speeds *s)
{
    static const char text[] = "model: {layers: [flatten, {linear: 16}, relu, linear]}\n"
                               "batch: {global: 20}\nlog: {every: 5}\n"
                               "parallel: {threads: 1}\n";
    tiny_run t = { .also = note, .also_arg = s };
    *s = (speeds){ 0 };
    tiny_fresh();
    tiny_train_with(&t, text, NULL, NULL, (const char *[]){ device, "run.steps=12", NULL });
    CHECK_STR(t.error, "");
    CHECK_INT(t.last, STEPS);
}

TEST(a_device_has_the_speed_of_steps_that_were_waited_for)
{
    speeds s;
    train_on("device=cuda", &s);
    for (int i = 1; i < EVERY; i++) {
        CHECK(s.rate[i] == 0); /* nobody has waited yet */
        CHECK(s.step_s[i] == 0 && s.eta_s[i] == 0);
    }
    for (int i = EVERY; i <= STEPS; i++) {
        const int line = i < STEPS ? i / EVERY * EVERY : STEPS;
        CHECK(s.rate[i] > 0 && s.step_s[i] > 0);
        CHECK(s.rate[i] == s.rate[line] && s.step_s[i] == s.step_s[line]);
        CHECK_CLOSE(s.eta_s[i], s.step_s[i] * (STEPS - i), 1e-12, 0);
    }
    CHECK(s.rate[EVERY] != s.rate[2 * EVERY]);
}

TEST(the_processor_has_a_speed_after_each_step)
{
    speeds s;
    train_on("device=cpu", &s);
    for (int i = 1; i <= STEPS; i++)
        CHECK(s.rate[i] > 0 && s.step_s[i] > 0);
    CHECK(s.rate[1] != s.rate[2]);
}

TEST_MAIN
