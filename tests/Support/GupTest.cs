using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Tests.Support;

/// <summary>
/// Answer of an ioctl of gup_test: the errno of the ioctl itself, and the bytes that it stepped over.
/// </summary>
/// <param name="Error">Almost always none: a pin that failed shows in the size only.</param>
/// <param name="Bytes">Bytes stepped; a short call counts its whole chunk.</param>
/// <param name="LooksPinned">Every page taken by a pin call may be DMA-pinned, long-term pins are long-term
/// pinnable.</param>
internal readonly record struct GupTestResult(Errno Error, ulong Bytes, bool LooksPinned);

/// <summary>
/// The kernel's gup_test device (mm/gup_test.c; Semantics 7): pins a range in chunks, looks, lets go. One object
/// is one open file.
/// </summary>
/// <remarks>
/// Not thread-safe, as one open file is used by one test. Holds pins between <see cref="StartLongTerm"/> and
/// <see cref="Stop"/>.
/// </remarks>
internal sealed class GupTest(Machine machine, AddressSpace space) : IDisposable
{
    private const ulong LongTermWrite = 1;
    private const ulong LongTermFast = 2;

    private readonly List<FrameVector> _held = [];
    private bool _isActive;

    /// <summary>
    /// GUP_FAST_BENCHMARK, PIN_FAST_BENCHMARK, PIN_LONGTERM_BENCHMARK, GUP_BASIC_TEST, PIN_BASIC_TEST by their call and
    /// flags: takes [<paramref name="address"/>, + <paramref name="size"/>) in chunks of
    /// <paramref name="pagesPerCall"/> and gives all of it back.
    /// </summary>
    public GupTestResult Run(GupCall call, GupFlags flags, ulong address, ulong size, int pagesPerCall)
    {
        var vectors = new List<FrameVector>();
        var stepped = Take(vectors, call, flags, address, size, pagesPerCall);
        var looksPinned = vectors.TrueForAll(vector =>
            !vector.IsPinned || machine.ViewPages(vector, 0, (int)vector.Count).All(page => page.MaybeDmaPinned));
        Release(vectors);
        return new GupTestResult(Errno.None, stepped, looksPinned);
    }

    /// <summary>
    /// DUMP_USER_PAGES_TEST: takes the range and looks at the pages numbered from 1 in <paramref name="which"/>; a
    /// number past the end is zeroed, as the kernel warns and does. The pages looked at.
    /// </summary>
    public IReadOnlyList<PageView> Dump(bool isPin, ulong address, ulong size, uint[] which)
    {
        var vectors = new List<FrameVector>();
        var pages = (int)(size >> PageGeometry.PageShift);
        Take(vectors, isPin ? GupCall.PinUserPages : GupCall.GetUserPages, GupFlags.None, address, size, pages);
        var taken = vectors.Sum(vector => vector.Count);
        var views = new List<PageView>();
        for (var i = 0; i < which.Length; i++)
        {
            if (which[i] > taken) which[i] = 0;
            if (which[i] != 0) views.Add(machine.ViewPages(vectors[0], which[i] - 1, 1)[0]);
        }

        Release(vectors);
        return views;
    }

    /// <summary>
    /// PIN_LONGTERM_TEST_START with its flags (1 write, 2 fast): all of the range stays pinned. -EINVAL while active,
    /// for unknown flags, an unaligned range or none; any failure unpins all.
    /// </summary>
    public Errno StartLongTerm(ulong address, ulong size, ulong flags)
    {
        if (_isActive || (flags & ~(LongTermWrite | LongTermFast)) != 0) return Errno.EINVAL;
        if (size == 0 || ((address | size) & ~PageGeometry.PageMask) != 0) return Errno.EINVAL;
        var call = (flags & LongTermFast) != 0 ? GupCall.PinUserPagesFast : GupCall.PinUserPages;
        var full = GupFlags.LongTerm | ((flags & LongTermWrite) != 0 ? GupFlags.Write : 0);
        var done = 0UL;
        while (done < size)
        {
            var vector = machine.CreateVector((long)((size - done) >> PageGeometry.PageShift))!;
            _held.Add(vector);
            var result = machine.Gup(
                space, call, address + done, (long)((size - done) >> PageGeometry.PageShift), full,
                LockedArgument.Null, vector).Result;
            if (result.Raw <= 0)
            {
                Release(_held);
                return result.Error == Errno.None ? Errno.EFAULT : result.Error;
            }

            done += (ulong)result.Pages << PageGeometry.PageShift;
        }

        _isActive = true;
        return Errno.None;
    }

    /// <summary>PIN_LONGTERM_TEST_READ: the pinned bytes. -EINVAL when not started.</summary>
    public Errno Read(Span<byte> bytes)
    {
        if (!_isActive) return Errno.EINVAL;
        foreach (var vector in _held)
        {
            var part = Math.Min(bytes.Length, (int)(vector.Count << PageGeometry.PageShift));
            machine.CopyFrames(vector, 0, bytes[..part], isWrite: false, out var error);
            if (error != Errno.None) return Errno.EFAULT;
            bytes = bytes[part..];
        }

        return Errno.None;
    }

    /// <summary>PIN_LONGTERM_TEST_STOP: lets go; closing the file does the same.</summary>
    public void Stop()
    {
        Release(_held);
        _isActive = false;
    }

    public void Dispose() => Stop();

    private ulong Take(
        List<FrameVector> vectors, GupCall call, GupFlags flags, ulong address, ulong size, int pagesPerCall)
    {
        var done = 0UL;
        while (done < size)
        {
            var wanted = Math.Min((ulong)pagesPerCall, (size - done) >> PageGeometry.PageShift);
            var vector = machine.CreateVector((long)wanted)!;
            vectors.Add(vector);
            var result = machine.Gup(
                space, call, address + done, (long)wanted, flags, LockedArgument.Null, vector).Result;
            // A call that takes nothing ends the loop before the chunk counts, a short one after.
            if (result.Raw <= 0) break;
            done += wanted << PageGeometry.PageShift;
            if ((ulong)result.Pages < wanted) break;
        }

        return done;
    }

    private void Release(List<FrameVector> vectors)
    {
        foreach (var vector in vectors)
        {
            machine.PutVaddrFrames(vector);
            machine.DestroyVector(vector);
        }

        vectors.Clear();
    }
}
