using FramePin.Replay;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// Logs as strace writes them of programs that are not everyday: no line ends a replay, and what the emulator lacks is
/// named (part 5).
/// </summary>
public sealed class ReplayLineTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const string Start =
        "7f0000000000-7f0000100000 rw-p 00000000 00:00 0\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";

    private const string Anonymous = "MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)";

    /// <summary>T1, T3: a shift, a type that strace names, numbers in place of names.</summary>
    [Theory]
    [InlineData("mmap(NULL, 2097152, PROT_READ, MAP_HUGETLB|21<<MAP_HUGE_SHIFT|" + Anonymous + " = -1 ENOMEM (No)")]
    [InlineData("mmap(NULL, 2097152, PROT_READ, MAP_HUGETLB|30<<26|" + Anonymous + " = -1 ENOMEM (No)")]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_FILE, 3</etc/passwd>, 0) = -1 EINVAL (Invalid argument)")]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_FILE|MAP_PRIVATE, 3</etc/passwd>, 0) = 0x7efffffff000")]
    [InlineData("mmap(NULL, 4096, PROT_READ, 0x22 /* MAP_??? */, -1, 0) = 0x7efffffff000")]
    [InlineData("mmap(NULL, 4096, PROT_READ|PROT_SEM, " + Anonymous + " = 0x7efffffff000 <0.000012>")]
    [InlineData("12:30:01.123456 mmap(NULL, 4096, PROT_READ, " + Anonymous + " = 0x7efffffff000")]
    public async Task A_line_that_strace_writes_is_read(string line)
    {
        var report = await ReplayAsync([line]);
        Assert.Empty(report.LinesUnread);
        Assert.Equal((1, 1), (report.ReturnsMatched, report.ReturnsExpected));
    }

    /// <summary>T1, T3: what is not understood is counted, named with its line, and passed over.</summary>
    [Theory]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_FROM_THE_FUTURE, -1, 0) = 0x7efffffff000", "MAP_FROM_THE_FUTURE")]
    [InlineData("mmap(NULL, 4096, PROT_READ, 99<<MAP_HUGE_SHIFT, -1, 0) = 0x7efffffff000", "99<<MAP_HUGE_SHIFT")]
    [InlineData("mmap(NULL, 4096) = 0x7efffffff000", "argument 3 is missing")]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7efffffff000", "names no path")]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = what", "'what' is no answer")]
    [InlineData("munmap(0x7fffffffffffffffffffffff, 4096) = 0", "is no number")]
    [InlineData("munmap(somewhere, 4096) = 0", "'somewhere' is no number")]
    [InlineData("madvise(0x1000, 4096, MADV_FROM_THE_FUTURE) = -1 EINVAL (Invalid argument)", "MADV_FROM_THE_FUTURE")]
    [InlineData("brk() = 0x500000", "argument 1 is missing")]
    [InlineData("shmat(0) = 0x7efffffff000", "argument 2 is missing")]
    [InlineData("clone(child_stack=NULL) = many", "is no number of a process")]
    [InlineData("99999999999999999999 munmap(0x1000, 4096) = 0", "thread is too large")]
    [InlineData("<... munmap resumed>) = 0", "never began")]
    [InlineData("half a li", "not a call")]
    [InlineData("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANO", "not a call")]
    [InlineData("\u0000\u0001", "not a call")]
    public async Task A_line_that_is_not_understood_is_named_and_passed_over(string line, string reason)
    {
        const string good = "mmap(NULL, 4096, PROT_READ, " + Anonymous + " = 0x7efffffff000";
        var report = await ReplayAsync([line, good]);
        var unread = Assert.Single(report.LinesUnread);
        Assert.Equal(1, unread.Line);
        Assert.Contains(reason, unread.Reason, StringComparison.Ordinal);
        Assert.Equal((1, 1), (report.ReturnsMatched, report.ReturnsExpected));
    }

    /// <summary>T1, T3: letters of a recorded program's log are changed at random. No change ends the replay.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public async Task No_damage_to_a_log_ends_its_replay(int seed)
    {
        const string letters = "0123456789abcdefxMAPROT_|<>(),= -\"'?\\\u0000\n";
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var folder = Path.Combine(AppContext.BaseDirectory, "Data", "traces", "malloc-mix");
        var lines = (await File.ReadAllLinesAsync(
            Path.Combine(folder, "strace.log"), TestContext.Current.CancellationToken)).Take(300).ToArray();
        var random = new Random(seed);
        for (var i = 0; i < lines.Length; i++)
        {
            if (random.Next(3) != 0 || lines[i].Length == 0) continue;
            var line = lines[i].ToCharArray();
            for (var changes = random.Next(1, 6); changes > 0; changes--)
                line[random.Next(line.Length)] = letters[random.Next(letters.Length)];
            lines[i] = new string(line);
        }

        var unread = new List<UnreadLine>();
        var recording = new Recording
        {
            Calls = StraceLog.Parse(lines, unread),
            LinesUnread = unread,
            MapsStart = MapsFile.Parse(File.ReadLines(Path.Combine(folder, "maps.start"))),
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{report.LinesUnread.Count} lines not understood, {report.ReturnsMatched} of {report.ReturnsExpected}");
        Assert.NotEmpty(report.LinesUnread);
        Assert.True(report.ReturnsMatched > 0);
        Assert.Empty(report.AuditFindings);
    }

    /// <summary>T1: sizes and addresses that no file or process has, and calls that never end.</summary>
    [Theory]
    [InlineData("ftruncate(3</memfd:x>(deleted), -1) = -1 EINVAL (Invalid argument)", 1, 0)]
    [InlineData("fallocate(3</memfd:x>(deleted), 0, -1, 5) = -1 EINVAL (Invalid argument)", 1, 0)]
    [InlineData("fallocate(3</memfd:x>(deleted), 0, 5, 0) = -1 EINVAL (Invalid argument)", 1, 0)]
    [InlineData("fallocate(3</memfd:x>(deleted), 0, 9223372036854775807, 1) = -1 EFBIG (File too large)", 1, 0)]
    [InlineData("ftruncate(3</memfd:x>(deleted), 1125899906842624) = 0", 0, 1)]
    [InlineData("fallocate(3</memfd:x>(deleted), 0, 0, 9223372036854775807) = -1 ENOSPC (No space left)", 0, 1)]
    [InlineData("brk(NULL) = 0x555555559010", 1, 0)]
    [InlineData("brk(NULL) = 0xffffffffffff0000", 0, 1)]
    [InlineData("munmap(0x7effffffe000, 4096 <unfinished ...>", 0, 0)]
    [InlineData("munmap(0x7effffffe000 <unfinished ...>", 0, 1)]
    public async Task Sizes_and_ends_that_are_not_everyday_end_no_replay(string line, int matched, int unread)
    {
        var report = await ReplayAsync(
        [
            "memfd_create(\"x\", 0) = 3</memfd:x>(deleted)",
            "ftruncate(3</memfd:x>(deleted), 8192) = 0",
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_SHARED, 3</memfd:x>(deleted), 0) = 0x7effffffe000",
            line,
        ]);
        Assert.Equal(2 + matched, report.ReturnsMatched);
        Assert.Equal(unread, report.LinesUnread.Count);
        if (line.EndsWith("4096 <unfinished ...>", StringComparison.Ordinal))
            Assert.Equal(1, report.CallsOther["munmap (never finished)"]);
    }

    /// <summary>T6: two memory files of one name are two files, and a copied descriptor is the file's.</summary>
    [Fact]
    public async Task Memory_files_of_one_name_are_told_apart()
    {
        var report = await ReplayAsync(
        [
            "memfd_create(\"x\", 0) = 3</memfd:x>(deleted)",
            "memfd_create(\"x\", 0) = 4</memfd:x>(deleted)",
            "ftruncate(3</memfd:x>(deleted), 8192) = 0",
            "ftruncate(4</memfd:x>(deleted), 4096) = 0",
            "fcntl(3</memfd:x>(deleted), F_DUPFD, 9) = 9</memfd:x>(deleted)",
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_SHARED, 9</memfd:x>(deleted), 0) = 0x7effffffe000",
            "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4</memfd:x>(deleted), 0) = 0x7effffffd000",
            "ftruncate(4</memfd:x>(deleted), 0) = 0",
            "mlock(0x7effffffe000, 8192) = 0",
            "mlock(0x7effffffd000, 4096) = -1 ENOMEM (Cannot allocate memory)",
        ]);
        Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent));
        Assert.Empty(report.LinesUnread);
        Assert.Equal(7, report.ReturnsExpected);
    }

    /// <summary>T1: lines of the other files of a recording are passed over and named like those of the log.</summary>
    [Fact]
    public async Task A_damaged_file_of_a_recording_is_read_as_far_as_it_goes()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-log-").FullName;
        try
        {
            Task Write(string name, params string[] lines) => File.WriteAllLinesAsync(
                Path.Combine(folder, name), lines, TestContext.Current.CancellationToken);
            await Write("strace.log", "mmap(NULL, 4096, PROT_READ, " + Anonymous + " = 0x7efffffff000");
            await Write(
                "maps.start",
                [.. Start.Split('\n'), "7f00000", "7f0000001000-7f0000000000 rw-p 0 00:00 0",
                    "7f0000080000-7f0000100000 rw-p 00000000 00:00 0", "7efffff00000-7f0000001000 rw-p 0000 00:00 0",
                    "ffffffffffffffff0-ffffffffffffffff1 rw-p 00000000 00:00 0",
                    "7e0000000001-7e0000001001 rw-p 00000000 00:00 0",
                    "7d0000000000-7e0000000000 r--p ffffffffffff0000 08:01 77                         /a"]);
            await Write("maps.end", Start.Split('\n')[0], "?");
            await Write("smaps.end", Start.Split('\n')[0], "Anonymous:", "Anonymous:  many kB", "fffff");
            await Write("files", "", "many /b", "12 /b");
            var report = await new Replayer(daemon.Client).RunAsync(
                Recording.Load(folder), pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
            foreach (var unread in report.LinesUnread) TestContext.Current.TestOutputHelper?.WriteLine($"{unread}");
            Assert.Equal((1, 1), (report.ReturnsMatched, report.ReturnsExpected));
            Assert.Equal(
                7, report.LinesUnread.Count(line => line.Reason.Contains("maps.start", StringComparison.Ordinal)));
            Assert.Single(report.LinesUnread, line => line.Reason.Contains("maps.end", StringComparison.Ordinal));
            Assert.Equal(2, report.LinesUnread.Count(line => line.Reason.Contains("files:", StringComparison.Ordinal)));
            Assert.Empty(report.AuditFindings);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>T6: seals, sizes and holes of mapped files are replayed, and mseal under its number.</summary>
    [Fact]
    public async Task Calls_on_files_and_seals_are_replayed()
    {
        var report = await ReplayAsync(
        [
            "memfd_create(\"x\", MFD_ALLOW_SEALING) = 3</memfd:x>(deleted)",
            "ftruncate(3</memfd:x>(deleted), 8192) = 0",
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_SHARED, 3</memfd:x>(deleted), 0) = 0x7effffffe000",
            "fcntl(3</memfd:x>(deleted), F_ADD_SEALS, F_SEAL_WRITE) = -1 EBUSY (Device or resource busy)",
            "fallocate(3</memfd:x>(deleted), FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 0, 4096) = 0",
            "fallocate(3</memfd:x>(deleted), 0, 0, 16384) = 0",
            "munmap(0x7effffffe000, 8192) = 0",
            "fcntl(3</memfd:x>(deleted), F_ADD_SEALS, F_SEAL_WRITE) = 0",
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_SHARED, 3</memfd:x>(deleted), 0) = -1 EPERM (Operation)",
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, " + Anonymous + " = 0x7effffffe000",
            "syscall_0x1ce(0x7effffffe000, 0x2000, 0, 0xffffffff, 0, 0) = 0",
            "munmap(0x7effffffe000, 4096) = -1 EPERM (Operation not permitted)",
        ]);
        Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent));
        Assert.Equal(11, report.ReturnsExpected);
        Assert.Empty(report.CallsLacking);
        Assert.Equal(1, report.Calls["mseal"]);
    }

    /// <summary>T6: what the emulator lacks is named with its lines, where it had an effect.</summary>
    [Fact]
    public async Task Calls_that_the_emulator_lacks_are_named()
    {
        var report = await ReplayAsync(
        [
            "mmap(NULL, 8192, PROT_READ|PROT_WRITE, " + Anonymous + " = 0x7effffffe000",
            "mbind(0x7effffffe000, 4096, MPOL_BIND, [0x1], 64, 0) = 0",
            "mbind(0x7effffffe000, 4096, MPOL_BIND, [0x1], 64, 0) = -1 EPERM (Operation not permitted)",
            "remap_file_pages(0x7effffffe000, 4096, PROT_NONE, 1, MAP_FILE) = 0",
            "userfaultfd(O_CLOEXEC) = 4<anon_inode:[userfaultfd]>",
            "fcntl(3</memfd:x>(deleted), F_ADD_SEALS, F_SEAL_GROW|F_SEAL_SHRINK) = 0",
            "fcntl(3</etc/passwd>, F_GETFD) = 0",
            "memfd_create(\"h\", MFD_CLOEXEC|MFD_HUGETLB) = 5</memfd:h>(deleted)",
            "personality(ADDR_NO_RANDOMIZE) = 0",
            "personality(0x400000 /* READ_IMPLIES_EXEC */) = 0",
            "prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) = 0",
        ]);
        Assert.Equal(
            ["fcntl(F_ADD_SEALS, F_SEAL_GROW|F_SEAL_SHRINK)", "mbind", "memfd_create(MFD_HUGETLB)",
                "personality(READ_IMPLIES_EXEC)", "prctl(PR_SET_MDWE)", "remap_file_pages", "userfaultfd"],
            report.CallsLacking.Keys);
        Assert.Equal([2], report.CallsLacking["mbind"]);
        Assert.Equal(1, report.ReturnsMatched);
    }

    /// <summary>
    /// T7: a child forked before the program's last execve is another process, and so are its children.
    /// </summary>
    [Fact]
    public async Task A_child_forked_before_the_last_execve_is_not_the_program()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-log-").FullName;
        try
        {
            string Map(int thread) => $"{thread} mmap(NULL, 4096, PROT_READ, {Anonymous} = 0x7efffffff000";
            await File.WriteAllLinesAsync(
                Path.Combine(folder, "strace.log"),
                [
                    "1 execve(\"/a\", [\"a\"], 0x0 /* 0 vars */) = 0",
                    "1 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 2",
                    Map(2), "1 execve(\"/b\", [\"b\"], 0x0 /* 0 vars */) = 0", Map(2),
                    "2 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 3", Map(3), Map(1),
                ], TestContext.Current.CancellationToken);
            await File.WriteAllTextAsync(
                Path.Combine(folder, "maps.start"), Start, TestContext.Current.CancellationToken);
            var report = await new Replayer(daemon.Client).RunAsync(
                Recording.Load(folder), pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
            Assert.Equal((1, 1), (report.ReturnsMatched, report.ReturnsExpected));
            Assert.Equal(2, report.CallsOther["mmap (another process)"]);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>T12: System V segments detach once, and attach over memory with SHM_REMAP alone.</summary>
    [Fact]
    public async Task Segments_are_attached_and_detached_as_the_kernel_does()
    {
        var report = await ReplayAsync(
        [
            "shmget(IPC_PRIVATE, 8192, IPC_CREAT|0600) = 0",
            "shmat(0, NULL, 0) = 0x7effffffe000",
            "shmdt(0x7effffffe000) = 0",
            "shmdt(0x7effffffe000) = -1 EINVAL (Invalid argument)",
            "shmat(0, NULL, 0) = 0x7effffffe000",
            // Over memory, in its middle, unaligned, and where there is room.
            "shmat(0, 0x7effffffe000, 0) = -1 EINVAL (Invalid argument)",
            "shmat(0, 0x7effffffd000, 0) = -1 EINVAL (Invalid argument)",
            "shmat(0, 0x7effffff0123, 0) = -1 EINVAL (Invalid argument)",
            "shmat(0, 0x7effffff0123, SHM_RND) = 0x7effffff0000",
            "shmat(0, NULL, SHM_REMAP) = -1 EINVAL (Invalid argument)",
            "shmat(0, 0x7effffff1000, SHM_REMAP|SHM_RDONLY) = 0x7effffff1000",
            // Of the attachment below only its first page is left; it goes, and the other stays.
            "shmdt(0x7effffff0000) = 0",
            "shmdt(0x7effffff0000) = -1 EINVAL (Invalid argument)",
            "shmdt(0x7effffff1001) = -1 EINVAL (Invalid argument)",
            "shmdt(0x7effffff1000) = 0",
            // A part that was unmapped stays unmapped for others: what lies there now is not the segment's.
            "munmap(0x7effffffe000, 4096) = 0",
            "mmap(0x7effffffe000, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x7effffffe000",
            "shmdt(0x7effffffe000) = 0",
            "mprotect(0x7effffffe000, 4096, PROT_NONE) = 0",
            "shmat(7, 0x7effffff0000, SHM_FROM_THE_FUTURE) = 0x7effffff0000",
            // No segment has this number; a removed one is attached while it is attached somewhere.
            "shmat(8, NULL, 0) = -1 EINVAL (Invalid argument)",
            "shmget(IPC_PRIVATE, 4096, IPC_CREAT|0600) = 9",
            "shmat(9, 0x7efffff00000, 0) = 0x7efffff00000",
            "shmctl(9, IPC_RMID, NULL) = 0",
            "shmat(9, 0x7efffff01000, 0) = 0x7efffff01000",
            "shmdt(0x7efffff00000) = 0",
            "shmdt(0x7efffff01000) = 0",
            "shmat(9, 0x7efffff01000, 0) = -1 EINVAL (Invalid argument)",
        ]);
        Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent));
        Assert.Equal(26, report.ReturnsExpected);
    }

    private Task<ReplayReport> ReplayAsync(string[] lines)
    {
        var unread = new List<UnreadLine>();
        var recording = new Recording
        {
            Calls = StraceLog.Parse(lines, unread),
            LinesUnread = unread,
            MapsStart = MapsFile.Parse(Start.Split('\n')),
        };
        return new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
    }
}
