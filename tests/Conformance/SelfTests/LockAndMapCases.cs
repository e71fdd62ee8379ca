using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using static FramePin.Tests.Conformance.SelfTests.Bench;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>mlock2-tests, on-fault-limit, map_fixed_noreplace, droppable, memfd_secret, mdwe_test.</summary>
internal static class LockAndMapCases
{
    private const Prot R = Prot.Read;
    private const MapFlags PrivateAnonymous = MapFlags.Private | MapFlags.Anonymous;
    private const ulong LimitMemlock = 8;
    private const int Secret = 5;

    public static IEnumerable<(string Name, Action<Bench> Run)> All => Cases.Select(entry => (entry.Key, entry.Value));

    private static readonly Dictionary<string, Action<Bench>> Cases = new()
    {
        ["mlock2 test_mlock_lock"] = b =>
        {
            b.Anon(At, 2);
            b.Is(Done, b.Mlock(At, 2));
            b.Is("11", b.Present(At, 2));
            Holds(b, HasFlag(b, At, "lo") && !HasFlag(b, At, "lf"));
            b.Is(Done, b.Munlock(At, 2));
            Holds(b, !HasFlag(b, At, "lo"));
        },
        ["mlock2 test_mlock_onfault"] = b =>
        {
            b.Anon(At, 2);
            b.Is(Done, b.Mlock(At, 2, onFault: true));
            b.Is("00", b.Present(At, 2));
            b.Store(At, (byte)'a');
            b.Is("10", b.Present(At, 2));
            Holds(b, HasFlag(b, At, "lo"));
            b.Is(Done, b.Munlock(At, 2));
            Holds(b, !HasFlag(b, At, "lo"));
            b.Is("10", b.Present(At, 2));
        },
        ["mlock2 test_lock_onfault_of_present"] = b =>
        {
            b.Anon(At, 2);
            b.Store(At, (byte)'a');
            b.Is(Done, b.Mlock(At, 2, onFault: true));
            b.Is("10", b.Present(At, 2));
            Holds(b, HasFlag(b, At, "lo") && HasFlag(b, P(1), "lo"));
        },
        ["mlock2 test_munlockall"] = b =>
        {
            b.Is(Done, b.Run(StepKind.MlockAll, 2));
            b.Anon(At, 2);
            b.Is("11", b.Present(At, 2));
            b.Is(Done, b.Run(StepKind.MunlockAll));
            Holds(b, !HasFlag(b, At, "lo"));
            b.Is(Done, b.Run(StepKind.MlockAll, 2 | 4));
            b.Anon(Other, 2);
            b.Is("00", b.Present(Other, 2));
            b.Store(Other, 1);
            b.Is("10", b.Present(Other, 2));
            b.Is(Done, b.Run(StepKind.MunlockAll));
            b.Is(Done, b.Run(StepKind.MlockAll, 1 | 2));
            b.Is("11", b.Present(Other, 2));
            b.Is(Done, b.Run(StepKind.MunlockAll));
        },
        ["mlock2 test_vma_management"] = b => ManageAreas(b, () => b.Mlock(At, 3, onFault: true), "lo"),
        ["mlock2 test_vma_management, mlockall"] = b =>
        {
            b.Anon(At, 3);
            b.Is(Done, b.Run(StepKind.MlockAll, 1 | 4));
            b.IsAreas(At, P(3), "0-3:rw-p");
            b.Is(Done, b.Munlock(P(1), 1));
            b.IsAreas(At, P(3), "0-1:rw-p", "1-2:rw-p", "2-3:rw-p");
            b.Is(Done, b.Munlock(At, 3));
            b.IsAreas(At, P(3), "0-3:rw-p");
            b.Is(Done, b.Run(StepKind.MunlockAll));
        },
        ["mlock2 bad arguments"] = b =>
        {
            b.Anon(At, 2);
            b.Is("-EINVAL", b.Run(StepKind.Mlock, At, Page, 2));
            b.Is("-EINVAL", b.Run(StepKind.MlockAll, 4));
            b.Is("-EINVAL", b.Run(StepKind.MlockAll, 0));
            b.Is("-ENOMEM", b.Mlock(P(1), 2));
            b.Is("-ENOMEM", b.Munlock(P(1), 2));
        },
        ["mlock-random: within and above the limit"] = b =>
        {
            b.Anon(At, 32);
            b.Is(Done, b.Run(StepKind.Limit, LimitMemlock, 16 * Page));
            b.Is("ok", b.Run(StepKind.DropRights));
            b.Is(Done, b.Mlock(At, 8));
            b.Is(Done, b.Mlock(P(4), 8));
            b.Is(Done, b.Mlock(P(12), 4));
            b.Is("-ENOMEM", b.Mlock(P(16), 1));
            b.Is(Done, b.Mlock(At, 16));
            b.Is("-ENOMEM", b.Mlock(At, 17, onFault: true));
            b.Is(Done, b.Munlock(At, 16));
            b.Is("-ENOMEM", b.Mlock(At, 17));
        },
        ["on-fault-limit"] = b =>
        {
            b.Is(Done, b.Run(StepKind.Limit, LimitMemlock, 256 * Page));
            b.Is("ok", b.Run(StepKind.DropRights));
            b.Is(Done, b.Run(StepKind.MlockAll, 2 | 4));
            b.Is("-EAGAIN", b.Mmap(0, 512, Rw, PrivateAnonymous | MapFlags.Populate));
            b.Is(Done, b.Run(StepKind.MunlockAll));
        },
        ["no right and no limit to lock"] = b =>
        {
            b.Anon(At, 1);
            b.Is(Done, b.Run(StepKind.Limit, LimitMemlock, 0));
            b.Is("ok", b.Run(StepKind.DropRights));
            b.Is("-EPERM", b.Mlock(At, 1));
            b.Is("-EPERM", b.Run(StepKind.MlockAll, 1));
            b.Is("-EPERM", b.Mmap(0, 1, Rw, PrivateAnonymous | MapFlags.Locked));
        },
        ["map_fixed_noreplace"] = b =>
        {
            const MapFlags flags = PrivateAnonymous | MapFlags.FixedNoReplace;
            b.Is(Text(At), b.Mmap(At, 5, Prot.None, flags));
            b.Is(Done, b.Munmap(At, 5));
            b.Is(Text(P(1)), b.Mmap(P(1), 3, Prot.None, flags));
            // Over all of it, exactly it, inside it, over its end, over its start.
            b.Is("-EEXIST", b.Mmap(At, 5, Prot.None, flags));
            b.Is("-EEXIST", b.Mmap(P(1), 3, Prot.None, flags));
            b.Is("-EEXIST", b.Mmap(P(2), 1, Prot.None, flags));
            b.Is("-EEXIST", b.Mmap(P(3), 2, Prot.None, flags));
            b.Is("-EEXIST", b.Mmap(At, 2, Prot.None, flags));
            b.Is(Text(At), b.Mmap(At, 1, Prot.None, flags));
            b.Is(Text(P(4)), b.Mmap(P(4), 1, Prot.None, flags));
            b.Is(Done, b.Munmap(At, 5));
        },
        ["droppable"] = b =>
        {
            b.Is(Text(At), b.Mmap(At, 8, Rw, MapFlags.Anonymous | MapFlags.Droppable | MapFlags.Fixed));
            Holds(b, HasFlag(b, At, "dp") && HasFlag(b, At, "nr") && HasFlag(b, At, "wf") && HasFlag(b, At, "dd"));
            b.StoreEach(At, 8, 7);
            var child = b.Fork();
            b.Process = child;
            b.LoadsEach(At, 8, 0);
            b.Process = 0;
            b.LoadsEach(At, 8, 7);
            b.Is("-EINVAL",
                b.Mmap(Other, 1, Rw, MapFlags.Anonymous | MapFlags.Droppable | MapFlags.Fixed | MapFlags.Locked));
            b.Is("-EINVAL",
                b.Mmap(Other, 1, Rw, MapFlags.Anonymous | MapFlags.Droppable | MapFlags.Fixed | MapFlags.GrowsDown));
            // A lock is passed over in silence, and what advice may not undo is refused.
            b.Is(Done, b.Mlock(At, 8));
            Holds(b, !HasFlag(b, At, "lo"));
            b.Is("-EINVAL", b.Madvise(At, 8, Advice.KeepOnFork));
        },
        ["memfd_secret"] = b =>
        {
            b.Is("-EINVAL", b.Mmap(At, 4, Rw, MapFlags.Private | MapFlags.Fixed, file: Secret));
            b.Is("-EPERM", b.Mmap(At, 4, Rw | Prot.Exec, MapFlags.Shared | MapFlags.Fixed, file: Secret));
            b.Is(Text(At), b.Mmap(At, 4, Rw, MapFlags.Shared | MapFlags.Fixed, file: Secret));
            Holds(b, HasFlag(b, At, "lo") && HasFlag(b, At, "dd"));
            b.StoreEach(At, 4, 0x55);
            // Nobody but the process itself reads it: not by GUP, not by ptrace, not by read.
            b.Is("-EFAULT", b.Run(StepKind.ProcessRead, At, Page));
            b.Is("-EIO", b.Run(StepKind.MemRead, At, Page));
            b.Is("-EFAULT", b.Run(StepKind.Vmsplice, At, Page));
            b.Is("-EFAULT", b.Run(StepKind.Register, At, Page));
            b.Is("-EINVAL", b.Run(StepKind.Truncate, Secret, 2 * Page));
            b.LoadsEach(At, 4, 0x55);
            // A child shares it, as any shared mapping.
            b.Process = b.Fork();
            b.LoadsEach(At, 4, 0x55);
        },
        ["memfd_secret counts as locked"] = b =>
        {
            b.Is(Done, b.Run(StepKind.Limit, LimitMemlock, 4 * Page));
            b.Is("ok", b.Run(StepKind.DropRights));
            b.Is("-EAGAIN", b.Mmap(At, 5, Rw, MapFlags.Shared | MapFlags.Fixed, file: Secret));
            b.Is(Text(At), b.Mmap(At, 4, Rw, MapFlags.Shared | MapFlags.Fixed, file: Secret));
            b.Anon(Other, 1);
            b.Is("-ENOMEM", b.Mlock(Other, 1));
            b.Is(Done, b.Munmap(At, 4));
            b.Is(Done, b.Mlock(Other, 1));
        },
        ["mdwe off"] = b => Mdwe(b, isOn: false),
        ["mdwe on"] = b =>
        {
            b.Is(Done, SetMdwe(b, MdweFlags.RefuseExecGain));
            Mdwe(b, isOn: true);
        },
        ["mdwe inherited"] = b =>
        {
            b.Is(Done, SetMdwe(b, MdweFlags.RefuseExecGain));
            b.Process = b.Fork();
            Mdwe(b, isOn: true);
        },
        ["mdwe not inherited"] = b =>
        {
            b.Is(Done, SetMdwe(b, MdweFlags.RefuseExecGain | MdweFlags.NoInherit));
            b.Process = b.Fork();
            Mdwe(b, isOn: false);
        },
        ["mdwe flags"] = b =>
        {
            b.Is("-EINVAL", SetMdwe(b, MdweFlags.NoInherit));
            b.Is("-EINVAL", SetMdwe(b, (MdweFlags)4));
            b.Is(Done, SetMdwe(b, MdweFlags.None));
            b.Is(Done, SetMdwe(b, MdweFlags.RefuseExecGain));
            b.Is(Done, SetMdwe(b, MdweFlags.RefuseExecGain));
            b.Is("-EPERM", SetMdwe(b, MdweFlags.None));
            b.Is("-EPERM", SetMdwe(b, MdweFlags.RefuseExecGain | MdweFlags.NoInherit));
        },
    };

    private static void ManageAreas(Bench b, Func<string> lockAll, string flag)
    {
        b.Anon(At, 3);
        b.Is(Done, lockAll());
        b.IsAreas(At, P(3), "0-3:rw-p");
        b.Is(Done, b.Munlock(P(1), 1));
        b.IsAreas(At, P(3), "0-1:rw-p", "1-2:rw-p", "2-3:rw-p");
        Holds(b, HasFlag(b, At, flag) && !HasFlag(b, P(1), flag) && HasFlag(b, P(2), flag));
        b.Is(Done, b.Munlock(At, 3));
        b.IsAreas(At, P(3), "0-3:rw-p");
    }

    /// <summary>mdwe_test's cases: what stays executable may, what becomes so may not.</summary>
    private static void Mdwe(Bench b, bool isOn)
    {
        var denied = isOn ? "-EACCES" : Done;
        b.Anon(At, 1, R | Prot.Exec);
        b.Is(isOn ? "-EACCES" : Text(Other), b.Mmap(Other, 1, Rw | Prot.Exec, PrivateAnonymous | MapFlags.Fixed));
        b.Is(Done, b.Mprotect(At, 1, R | Prot.Exec));
        b.Anon(P(2), 1, R);
        b.Is(denied, b.Mprotect(P(2), 1, R | Prot.Exec));
        b.Is(denied, b.Mprotect(At, 1, Rw | Prot.Exec));
        b.Anon(P(4), 1, R | Prot.Exec);
        b.Is(Text(P(4)), b.Mmap(P(4), 1, R | Prot.Exec, PrivateAnonymous | MapFlags.Fixed));
    }

    private static string SetMdwe(Bench b, MdweFlags flags) => b.Run(StepKind.Mdwe, (ulong)flags);

    private static bool HasFlag(Bench b, ulong at, string letters) => b.Flags(at).Split(' ').Contains(letters);

    private static void Holds(Bench b, bool holds) => b.Is("True", $"{holds}");
}
