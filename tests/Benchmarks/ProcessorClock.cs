using System.ComponentModel;
using System.Runtime.InteropServices;

namespace FramePin.Benchmarks;

/// <summary>
/// The processor time of another process to the nanosecond, where /proc knows hundredths of a second
/// (clock_getcpuclockid(3)).
/// </summary>
internal static partial class ProcessorClock
{
    private const int CpuClockSched = 2;

    /// <summary>User and system time of all its threads, also of those that have ended.</summary>
    public static TimeSpan Of(int pid)
    {
        var clock = (~pid << 3) | CpuClockSched;
        if (clock_gettime(clock, out var time) != 0) throw new Win32Exception(Marshal.GetLastPInvokeError());
        return TimeSpan.FromSeconds(time.Seconds) + TimeSpan.FromTicks(time.Nanoseconds / TimeSpan.NanosecondsPerTick);
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Timespec
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int clock_gettime(int clock, out Timespec time);
}
