/* nibble train MODEL --data D --epochs N -o OUT.onnx */
#include "cli.h"

#define O(field) offsetof(nb_train_options, field)
static const opt training[] = {
    {"epochs", 'e', "N", "passes over the training images", OPT_INT, O(epochs), 1, 1e6},
    {"output", 'o', "FILE", "the trained model, written after every improvement", OPT_TEXT,
     O(output), 0, 0},
    {"init", 0, "", "start from fresh random weights (--seed)", OPT_FLAG, O(init), 0, 0},
    {"batch", 0, "N", "images per step (default 128)", OPT_INT, O(batch), 1, 65536},
    {"time-limit", 0, "TIME", "stop after, e.g. 10m, with the best so far", OPT_SECONDS,
     O(time_limit), 1e-3, 1e9},
    {"resume", 0, "", "go on from FILE.checkpoint.npz where it exists", OPT_FLAG, O(resume), 0, 0},
};

static const opt descent[] = {
    {"optimizer", 0, "sgd|adam|adamw", "default: sgd, with Nesterov momentum", OPT_CHOICE,
     O(optimizer), 0, 0},
    {"lr", 0, "RATE", "largest learning rate (default 0.1; adam, adamw: 0.001)", OPT_REAL, O(lr),
     1e-12, 1e30},
    {"momentum", 0, "M", "of sgd (default 0.9)", OPT_REAL, O(momentum), 0, 0.99999},
    {"weight-decay", 0, "D", "of kernels (default 5e-4; adam: 0, adamw: 0.01)", OPT_REAL,
     O(weight_decay), 0, 1},
    {"schedule", 0, "cosine|step|constant", "default: cosine; step: /10 at 1/2 and 3/4 of the way",
     OPT_CHOICE, O(schedule), 0, 0},
    {"warmup", 0, "EPOCHS", "in which the rate rises to --lr (default 0)", OPT_REAL, O(warmup), 0,
     1e6},
    {"clip", 0, "NORM", "largest norm of the gradient (default: none)", OPT_REAL, O(clip), 1e-9,
     1e9},
    {"ema", 0, "DECAY", "judge and keep a moving average of the weights, e.g. 0.999", OPT_REAL,
     O(ema), 0.01, 0.999999},
};

static const opt images[] = {
    {"augment", 0, "LIST", "of crop, flip, cutout[=SIDE], mixup[=A], cutmix[=A]; or none",
     OPT_TEXT, O(augment), 0, 0},
    {"label-smoothing", 0, "S", "share of a label that goes to all classes (default 0)", OPT_REAL,
     O(label_smoothing), 0, 0.99},
};

static void print_train(const json_t *root, const void *user) {
    (void)user;
    double top1 = json_num(root, "top1"), top5 = json_num(root, "top5");
    if (top1 == top1) printf("  %-23s %.2f %%\n", "top-1", top1);
    if (top5 == top5) printf("  %-23s %.2f %%\n", "top-5", top5);
    print_pair("loss", show_real(json_num(root, "loss"), 4));
    print_pair("mse", show_value(json_at(root, "mse")));
    print_pair("images", show_whole(json_num(root, "images")));
    print_pair("split", json_text(root, "split"));
    print_pair("epochs", show_value(json_at(root, "epochs")));
    print_pair("best epoch", show_value(json_at(root, "best_epoch")));
    print_pair("images per second", show_real(json_num(root, "images_per_second"), 1));
    if (json_is_true(json_at(root, "stopped"))) print_pair("stopped", "early; --resume goes on");
    print_pair("written", json_text(root, "output"));
}

int cmd_train(cli *c) {
    static const char *const args[] = {"MODEL", NULL};
    static const char *const notes[] = {
        "MODEL is a float ONNX file, from a framework or 'nibble new'. Epochs are judged on the "
        "validation images, the number at the end is measured on the test images.",
        NULL};
    nb_train_options o = nb_train_options_default();
    const opt_group groups[] = {OPT_GROUP("Training", training, &o),
                                OPT_GROUP("Descent", descent, &o),
                                OPT_GROUP("Images", images, &o), CLI_DATA_GROUP(&o.data)};
    const cli_usage usage = {.args = args, .notes = notes, .groups = groups, .n_groups = 4};
    const char *path;
    c->tells = true;
    int code = cli_parse(c, &usage, &path);
    if (code != CLI_GO_ON) return code;
    if (!o.data.path) return cli_wrong(c, "train needs --data PATH");
    if (!o.output) return cli_wrong(c, "train needs --output FILE");
    if (!o.epochs) return cli_wrong(c, "train needs --epochs N");
    char *json = NULL;
    nb_status status = nb_train(c->ctx, path, &o, &json);
    return cli_finish(c, status, json, print_train, NULL);
}
